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

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .motion_prior import Distillation, distilled_estimate
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


def alternating_half_steps(steps: int, distillation: Distillation | None = None) -> int:
    """How many half-steps, and so evaluations, are made: each step in both directions, and those of distillation."""
    return 2 * steps + (distillation.passes * distillation.steps(steps) if distillation else 0)


def sample_alternating(
    model: Callable,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict | None = None,
    callback: Callable[[dict], None] | None = None,
    disable: bool | None = None,
    *,
    keyframes: KeyframeLatents,
    distillation: Distillation | None = None,
    draw_noise: DrawNoise | None = None,
) -> torch.Tensor:
    """A k-diffusion sampler: all steps of algorithm 1 on a model that can evaluate one direction alone.

    `x`: `[frames, 4, h, w]` at noise level `sigmas[0]`; `sigmas`: falling, `[steps + 1]`; `distillation`: motion prior
    distillation in the first of them; `draw_noise(shape, draw)`: N(0, 1) of the draw-th re-noising, from a stream of
    the sampling seed by default.
    """
    run = _Run(model, sigmas, dict(extra_args or {}), callback, draw_noise)
    steps = len(sigmas) - 1
    distilled_steps = distillation.steps(steps) if distillation else 0
    for step in range(steps):
        for _ in range(distillation.passes if distillation and step < distilled_steps else 0):
            guided, unconditional = run.evaluate(x, step, "forward")
            distilled = distilled_estimate(guided, keyframes.last, run.mask)
            x = run.renoised(run.stepped(x, step, distilled, unconditional, 0, keyframes.first), step)
        x = run.stepped(x, step, *run.evaluate(x, step, "forward"), -1, keyframes.last)
        x = run.renoised(x, step)
        x = run.stepped(x, step, *run.evaluate(x, step, "backward"), 0, keyframes.first)
    return x


class _Run:
    """What the half-steps of one sampling run share."""

    def __init__(
        self,
        model: Callable,
        sigmas: torch.Tensor,
        extra_args: dict,
        callback: Callable[[dict], None] | None,
        draw_noise: DrawNoise | None,
    ):
        self._model, self._extra_args, self._callback = model, extra_args, callback
        self._levels, self._sigmas = sigmas, sigmas.tolist()
        self.mask: torch.Tensor | None = extra_args.get("denoise_mask")
        seed = extra_args.get("seed") or 0
        self._draw_noise = draw_noise or (
            lambda shape, draw: seeded_noise(shape, stream_seed(seed, "re-noising", draw))
        )
        self._draws = itertools.count()

    def evaluate(self, x: torch.Tensor, step: int, direction: str) -> tuple[torch.Tensor, torch.Tensor]:
        """(D, D_u): the guided and the unconditional estimate of one direction, in forward time."""
        unconditional = []

        def keep(arguments: dict) -> torch.Tensor:
            unconditional.append(arguments["uncond_denoised"])
            return arguments["denoised"]

        options = dict(self._extra_args.get("model_options") or {})
        # CFG++ needs the unconditional estimate where guidance of 1 would leave it out.
        options |= {
            ONE_DIRECTION: direction,
            "disable_cfg1_optimization": True,
            _POST_CFG: [*options.get(_POST_CFG, []), keep],
        }
        sigma = self._sigmas[step] * x.new_ones([x.shape[0]])
        guided = self._model(x, sigma, **{**self._extra_args, "model_options": options})
        if self._callback is not None:
            level = self._levels[step]
            self._callback({"x": x, "i": step, "sigma": level, "sigma_hat": level, "denoised": guided})
        return guided, unconditional[-1]

    def stepped(
        self,
        x: torch.Tensor,
        step: int,
        estimate: torch.Tensor,
        unconditional: torch.Tensor,
        far_frame: int,
        keyframe: torch.Tensor,
    ) -> torch.Tensor:
        """After a half-step; where a noise mask keeps the latent's own frame, DDS leaves it as the estimate has it."""
        if self.mask is not None:
            kept = estimate[[far_frame]]
            keyframe = torch.lerp(kept, keyframe.to(kept), self.mask[[far_frame]].to(kept))
        sigma, next_sigma = self._sigmas[step : step + 2]
        return alternating_step(x, estimate, unconditional, far_frame, keyframe, sigma, next_sigma)

    def renoised(self, x: torch.Tensor, step: int) -> torch.Tensor:
        """Back from σ′ to σ."""
        scale = reinjection_scale(*self._sigmas[step : step + 2])
        return x + scale * self._draw_noise(x.shape, next(self._draws)).to(x)


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
