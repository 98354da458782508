"""Alternating sampling of both directions (Yang et al., "ViBiDSampler", arXiv 2410.05651, algorithm 1).

The directions are never fused. Each step σ → σ′ is made in the forward direction, taken back by new noise, and made
again in the backward direction. With one direction's estimates, D_c with conditioning and D_u without,

    D ← D_u + g (D_c − D_u)
    D[far frame] ← latent of the other keyframe         decomposed diffusion sampling (DDS)
    x ← D + σ′ · (x − D_u) / σ                          CFG++, arXiv 2406.08070

and between the directions  x ← x + sqrt(σ² − σ′²) · N(0, 1).

With backward-motion weights the backward half-step uses the attention maps of the forward half-step, which looked at
the latents before the re-noising.

DDS solves a least-squares problem for one known frame; for a whole frame its solution is that frame. It leads to the
keyframes as they are encoded without augmentation noise.

As the authors' release, with its settings: 25 steps, fps 7, `separate_noise` in Encode Keyframes. One thing differs:
their VAE draws the keyframes' latents from its distribution, ours takes the mode.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .noise import DrawNoise, seeded_noise, stream_seed
from .reinjection import reinjection_scale

ONE_DIRECTION = "inbetween_one_direction"
"""Entry of the model options by which an evaluation of one direction alone is asked for: `forward` or `backward`."""
# The host's name, as in guidance.py: this folder imports nothing of it.
_POST_CFG = "sampler_post_cfg_function"


@dataclass(frozen=True)
class KeyframeLatents:
    """Both keyframes, each `[1, 4, h, w]`; where nothing else is said, as the sampled latents hold them (scaled)."""

    first: torch.Tensor
    last: torch.Tensor


def sample_alternating(
    model: Callable,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict | None = None,
    callback: Callable[[dict], None] | None = None,
    disable: bool | None = None,
    *,
    keyframes: KeyframeLatents,
    draw_noise: DrawNoise | None = None,
) -> torch.Tensor:
    """A k-diffusion sampler: all steps of algorithm 1 on a model that can evaluate one direction alone.

    `x`: `[frames, 4, h, w]` at noise level `sigmas[0]`; `sigmas`: falling, `[steps + 1]`; `draw_noise(shape, draw)`:
    N(0, 1) of the draw-th re-noising, from a stream of the sampling seed by default.
    """
    extra_args = dict(extra_args or {})
    seed = extra_args.get("seed") or 0
    draw_noise = draw_noise or (lambda shape, draw: seeded_noise(shape, stream_seed(seed, "re-noising", draw)))
    ones = x.new_ones([x.shape[0]])
    for step in range(len(sigmas) - 1):
        sigma, next_sigma = float(sigmas[step]), float(sigmas[step + 1])
        for direction, far_frame, keyframe in (("forward", -1, keyframes.last), ("backward", 0, keyframes.first)):
            if direction == "backward":
                x = x + reinjection_scale(sigma, next_sigma) * draw_noise(x.shape, step).to(x)
            guided, unconditional = _evaluate(model, x, sigma * ones, direction, extra_args)
            if callback is not None:
                callback({"x": x, "i": step, "sigma": sigmas[step], "sigma_hat": sigmas[step], "denoised": guided})
            known = _unmasked(keyframe, guided, far_frame, extra_args)
            x = alternating_step(x, guided, unconditional, far_frame, known, sigma, next_sigma)
    return x


def alternating_step(
    x: torch.Tensor,
    guided: torch.Tensor,
    unconditional: torch.Tensor,
    far_frame: int,
    keyframe: torch.Tensor,
    sigma: float,
    next_sigma: float,
) -> torch.Tensor:
    """One direction's step σ → σ′ in forward time: `x`, `guided`, `unconditional` and the result `[frames, 4, h, w]`.

    `far_frame`: the frame (0 or −1) farthest from the direction's own keyframe, which becomes `keyframe`, the other
    one, `[1, 4, h, w]`.
    """
    estimate = guided.clone()
    estimate[far_frame] = keyframe.to(estimate)[0]
    return estimate + next_sigma * (x - unconditional) / sigma


def _unmasked(keyframe: torch.Tensor, guided: torch.Tensor, far_frame: int, extra_args: dict) -> torch.Tensor:
    """The keyframe; where a noise mask keeps the latent's own frame, that frame as `guided` has it."""
    mask = extra_args.get("denoise_mask")
    if mask is None:
        return keyframe
    return torch.lerp(guided[[far_frame]], keyframe.to(guided), mask[[far_frame]].to(guided))


def _evaluate(
    model: Callable, x: torch.Tensor, sigma: torch.Tensor, direction: str, extra_args: dict
) -> tuple[torch.Tensor, torch.Tensor]:
    """(D, D_u): the guided and the unconditional estimate of one direction, in forward time."""
    unconditional = []

    def keep(arguments: dict) -> torch.Tensor:
        unconditional.append(arguments["uncond_denoised"])
        return arguments["denoised"]

    options = dict(extra_args.get("model_options") or {})
    # CFG++ needs the unconditional estimate where guidance of 1 would leave it out.
    options |= {
        ONE_DIRECTION: direction,
        "disable_cfg1_optimization": True,
        _POST_CFG: [*options.get(_POST_CFG, []), keep],
    }
    guided = model(x, sigma, **{**extra_args, "model_options": options})
    return guided, unconditional[-1]
