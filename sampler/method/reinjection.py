"""Noise re-injection around any sampler (Wang et al., "Generative Inbetweening", arXiv 2408.15239, section 4.2).

After the step σ_t → σ_{t−1}, n times over (five times in the release):

    x ← x + sqrt(σ_t² − σ_{t−1}²) · N(0, 1)        back to the noise level σ_t
    x ← step(x, σ_t → σ_{t−1})

on the first `share` of the steps. It removes the mismatch of the two directions in the middle frames.
"""

from collections.abc import Callable

import torch

from .noise import DrawNoise, seeded_noise, stream_seed

SamplerFunction = Callable[..., torch.Tensor]


def reinjected_steps(steps: int, share: float) -> int:
    """How many steps, counted from the first, are followed by re-injections: share · steps, rounded down.

    As in the release, save that a product that is whole but for the last digit of a float counts as whole: 0.29 · 100
    is 28.999999999999996, and 29 steps are meant.
    """
    return min(steps, int(share * steps + 1e-6))


def steps_with_reinjections(steps: int, reinjections: int, share: float) -> int:
    """How many sampler steps run in all, re-injections included."""
    return steps + reinjections * reinjected_steps(steps, share)


def reinjection_scale(sigma: float, next_sigma: float) -> float:
    """sqrt(σ_t² − σ_{t−1}²): the noise that takes a latent at σ_{t−1} back to σ_t."""
    return (sigma**2 - next_sigma**2) ** 0.5


def sample_with_reinjection(
    model,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict | None = None,
    callback: Callable[[dict], None] | None = None,
    disable: bool | None = None,
    *,
    sampler_function: SamplerFunction,
    reinjections: int,
    share: float,
    draw_noise: DrawNoise | None = None,
    **sampler_options,
) -> torch.Tensor:
    """Runs `sampler_function`, any k-diffusion sampler, with re-injections on the first steps.

    `x`: `[frames, 4, h, w]` at noise level `sigmas[0]`; `sigmas`: falling, `[steps + 1]`; `draw_noise(shape, draw)`:
    N(0, 1) for the draw-th re-injection, from a stream of the sampling seed by default. During the re-injected steps
    the sampler runs one step at a time, so multistep samplers start each of them without a history.
    """
    extra_args = dict(extra_args or {})
    seed = extra_args.get("seed") or 0
    draw_noise = draw_noise or (lambda shape, draw: seeded_noise(shape, stream_seed(seed, "re-injection", draw)))
    early = reinjected_steps(len(sigmas) - 1, share) if reinjections > 0 else 0
    passes = 0

    def run(x: torch.Tensor, first: int, last: int) -> torch.Tensor:
        nonlocal passes
        # A stochastic sampler starts a generator, or a Brownian path between its first and last σ, at each call.
        arguments = {**extra_args, "seed": stream_seed(seed, "pass", passes)}
        passes += 1
        return sampler_function(
            model,
            x,
            sigmas[first : last + 1],
            extra_args=arguments,
            callback=_shifted(callback, first),
            disable=True if early else disable,
            **sampler_options,
        )

    draw = 0
    for step in range(early):
        x = run(x, step, step + 1)
        for _ in range(reinjections):
            noise = draw_noise(x.shape, draw).to(x)
            x = run(x + reinjection_scale(float(sigmas[step]), float(sigmas[step + 1])) * noise, step, step + 1)
            draw += 1
    return run(x, early, len(sigmas) - 1) if early < len(sigmas) - 1 else x


def _shifted(callback: Callable[[dict], None] | None, first: int) -> Callable[[dict], None] | None:
    return callback and (lambda state: callback({**state, "i": state["i"] + first}))
