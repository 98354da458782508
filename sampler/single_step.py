"""A single step of those samplers of the host that make none when they are asked for one.

`uni_pc` and older hosts' `sa_solver` show a step's latents to the model's next evaluation only and return those from
before it; `uni_pc`, `dpm_fast` and `dpm_adaptive` stop at the last level above 0.
"""

from collections.abc import Callable
from functools import partial

import torch

SamplerFunction = Callable[..., torch.Tensor]

_SHOWN_TO_THE_NEXT_EVALUATION = ("sample_unipc", "sample_unipc_bh2", "sample_sa_solver", "sample_sa_solver_pece")
_STOPPING_ABOVE_ZERO = ("sample_unipc", "sample_unipc_bh2", "dpm_fast_function", "dpm_adaptive_function")
# Where `uni_pc` itself ends.
_LOWEST_LEVEL = 0.001


def making_single_steps(sampler_function: SamplerFunction) -> SamplerFunction:
    """A k-diffusion sampler that makes one step when it is given two noise levels; with more it is as it was."""
    name = getattr(sampler_function, "__name__", "")
    if name in _SHOWN_TO_THE_NEXT_EVALUATION + _STOPPING_ABOVE_ZERO:
        return partial(_sample, sampler_function, name in _SHOWN_TO_THE_NEXT_EVALUATION, name in _STOPPING_ABOVE_ZERO)
    return sampler_function


def _sample(
    sampler_function: SamplerFunction,
    shown: bool,
    above_zero: bool,
    model,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    **arguments,
) -> torch.Tensor:
    if len(sigmas) == 2 and sigmas[1] == 0 and above_zero:
        sigmas = torch.stack([sigmas[0], sigmas[0].clamp(max=_LOWEST_LEVEL), sigmas[1]])
    elif len(sigmas) == 2 and sigmas[1] > 0 and shown:
        sigmas = torch.stack([*sigmas, sigmas[1] / 2])
    else:
        shown = False
    if not shown:
        return sampler_function(model, x, sigmas, **arguments)
    try:
        return sampler_function(_UntilBelow(model, float(sigmas[:2].mean())), x, sigmas, **arguments)
    except _Reached as step:
        return step.latents


class _Reached(Exception):
    def __init__(self, latents: torch.Tensor):
        super().__init__()
        self.latents = latents


class _UntilBelow:
    """The model as a sampler sees it, up to the first evaluation below a noise level: that one ends the sampling."""

    def __init__(self, model, level: float):
        self._model, self._level = model, level

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, **arguments) -> torch.Tensor:
        if float(sigma.max()) < self._level:
            raise _Reached(x)
        return self._model(x, sigma, **arguments)

    def __getattr__(self, name: str):
        return getattr(self._model, name)
