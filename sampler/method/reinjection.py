"""Noise re-injection around any sampler (Wang et al., "Generative Inbetweening", arXiv 2408.15239, section 4.2).

After the step σ_t → σ_{t−1}, n times over (five times in the release):

    x ← x + sqrt(σ_t² − σ_{t−1}²) · N(0, 1)        back to the noise level σ_t
    x ← step(x, σ_t → σ_{t−1})

on the first `share` of the steps. It removes the mismatch of the two directions in the middle frames.

Over several levels it is the jump of Lugmayr et al., "RePaint", arXiv 2201.09865, which Time Reversal Fusion (Feng et
al., arXiv 2403.14611) makes in its release: after L steps σ_t → σ_{t−L}

    x ← x + r Σ_k sqrt(σ_k² − σ_{k−1}²) · N(0, 1)_k        k = t − L + 1 … t, from the lowest level up
    x ← the same L steps

The first `share` of the steps is divided into runs of L, counted back from its end; what is left over at the start is
made once. Time Reversal Fusion never repeats the first step, and multiplies the noise by r.

As its release, with weighted fusion, guidance from 1 to 3 and 50 steps of euler: `reinjections` 1 (jump_n_sample − 1),
`reinjection_share` 0.2 (1 − repeat_step_ratio), `jump_length` 5, `repeat_first_step` off, `noise_ratio` 1 (0.95 for its
video frames). One thing differs: after a jump its scheduler scales the model's input by another step's σ, ours by the
right one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .noise import DrawNoise, seeded_noise, stream_seed

SamplerFunction = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Reinjection:
    """`times`: n; `share`: of the steps, from the first, in 0…1; `jump_length`: L; `repeat_first_step`: whether a jump
    may go back to the beginning; `noise_ratio`: r.
    """

    times: int
    share: float
    jump_length: int = 1
    repeat_first_step: bool = True
    noise_ratio: float = 1.0

    def early_steps(self, steps: int) -> int:
        """How many steps, counted from the first, may be repeated: share · steps, rounded down.

        As in the release, save that a product that is whole but for the last digit of a float counts as whole: 0.29 ·
        100 is 28.999999999999996, and 29 steps are meant.
        """
        return min(steps, int(self.share * steps + 1e-6))

    def jumps(self, steps: int) -> list[range]:
        """The runs of `jump_length` steps that are repeated, the first one first; steps are counted from 0."""
        length, first = self.jump_length, 0 if self.repeat_first_step else 1
        starts = range(self.early_steps(steps) - length, first - 1, -length)
        return [range(start, start + length) for start in reversed(starts)] if self.times > 0 else []

    def sampler_steps(self, steps: int) -> int:
        """How many sampler steps run in all, repeated ones included."""
        return steps + self.times * sum(map(len, self.jumps(steps)))


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
    reinjection: Reinjection,
    inner_sampler_function: SamplerFunction | None = None,
    draw_noise: DrawNoise | None = None,
    **sampler_options,
) -> torch.Tensor:
    """Runs `sampler_function`, any k-diffusion sampler, with its early steps repeated as `reinjection` says.

    `x`: `[frames, 4, h, w]` at noise level `sigmas[0]`; `sigmas`: falling, `[steps + 1]`; `draw_noise(shape, draw)`:
    N(0, 1) of the draw-th level that is gone back, from a stream of the sampling seed by default. Up to the last
    repeated step the sampler runs the steps of one jump at a time, so multistep samplers start each run without a
    history; `inner_sampler_function` makes the runs that stop before the last of the `sigmas`.
    """
    extra_args = dict(extra_args or {})
    seed = extra_args.get("seed") or 0
    draw_noise = draw_noise or (lambda shape, draw: seeded_noise(shape, stream_seed(seed, "re-injection", draw)))
    steps = len(sigmas) - 1
    jumps, passes = reinjection.jumps(steps), 0

    def run(x: torch.Tensor, first: int, last: int) -> torch.Tensor:
        nonlocal passes
        # A stochastic sampler starts a generator, or a Brownian path between its first and last σ, at each call.
        arguments = {**extra_args, "seed": stream_seed(seed, "pass", passes)}
        passes += 1
        function = (inner_sampler_function if last < steps else None) or sampler_function
        return function(
            model,
            x,
            sigmas[first : last + 1],
            extra_args=arguments,
            callback=_shifted(callback, first),
            disable=True if jumps else disable,
            **sampler_options,
        )

    draw = done = 0
    for jump in jumps:
        if done < jump.start:
            x = run(x, done, jump.start)
        done = jump.stop
        x = run(x, jump.start, done)
        for _ in range(reinjection.times):
            for step in reversed(jump):
                scale = reinjection.noise_ratio * reinjection_scale(float(sigmas[step]), float(sigmas[step + 1]))
                x = x + scale * draw_noise(x.shape, draw).to(x)
                draw += 1
            x = run(x, jump.start, done)
    return run(x, done, steps) if done < steps else x


def _shifted(callback: Callable[[dict], None] | None, first: int) -> Callable[[dict], None] | None:
    return callback and (lambda state: callback({**state, "i": state["i"] + first}))
