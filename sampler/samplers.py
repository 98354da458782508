"""The host's SAMPLERs with the method in them: re-injections around any of them, alternating steps in Euler's place.

Re-injection has a sampler make single steps, which some of the host's do not do when they are asked for one: `uni_pc`
and older hosts' `sa_solver` show a step's latents only to the model's next evaluation and return those from before it;
`uni_pc`, `dpm_fast` and `dpm_adaptive` stop at the last level above 0.
"""

from functools import partial

import comfy.k_diffusion.sampling
import comfy.samplers
import torch

from .method.alternating import KeyframeLatents, sample_alternating
from .method.reinjection import SamplerFunction, sample_with_reinjection, steps_with_reinjections

_SHOWN_TO_THE_NEXT_EVALUATION = ("sample_unipc", "sample_unipc_bh2", "sample_sa_solver", "sample_sa_solver_pece")
_STOPPING_ABOVE_ZERO = ("sample_unipc", "sample_unipc_bh2", "dpm_fast_function", "dpm_adaptive_function")
# Where `uni_pc` itself ends.
_LOWEST_LEVEL = 0.001


class ReinjectionSampler(comfy.samplers.KSAMPLER):
    """Any k-diffusion SAMPLER of the host, with re-injections on the first `share` of its steps.

    Raises ValueError when the sampler is none of the host's k-diffusion samplers, or has re-injections already.
    """

    def __init__(self, sampler: comfy.samplers.KSAMPLER, reinjections: int, share: float):
        if not hasattr(sampler, "sampler_function"):
            raise ValueError(
                f"sampler: expected one of ComfyUI's samplers, found {type(sampler).__name__}, which runs "
                "in its own way. Choose one with KSamplerSelect."
            )
        if isinstance(sampler, ReinjectionSampler):
            raise ValueError(
                "sampler: expected a sampler without re-injections, found a Noise Re-injection Sampler. "
                "Connect its own sampler here and remove it: re-injections are set in one node."
            )
        self.reinjections, self.share = reinjections, share
        # The sampler's own options stay with it, whatever their names.
        options = {
            "sampler_function": partial(making_single_steps(sampler.sampler_function), **sampler.extra_options),
            "reinjections": reinjections,
            "share": share,
        }
        super().__init__(sample_with_reinjection, options, sampler.inpaint_options)

    def sampler_steps(self, steps: int) -> int:
        """How many sampler steps run in all, re-injections included."""
        return steps_with_reinjections(steps, self.reinjections, self.share)


class AlternatingSampler(comfy.samplers.KSAMPLER):
    """The steps of alternating sampling, which are Euler's in each direction.

    Raises ValueError, naming the input, when the sampler that it replaces is not `euler`.
    """

    def __init__(self, sampler: comfy.samplers.Sampler, keyframes: KeyframeLatents):
        function = getattr(sampler, "sampler_function", None)
        is_euler = function is comfy.k_diffusion.sampling.sample_euler
        if not (isinstance(sampler, comfy.samplers.KSAMPLER) and is_euler) or sampler.extra_options:
            found = getattr(function, "__name__", type(sampler).__name__).removeprefix("sample_")
            options = getattr(sampler, "extra_options", None)
            if options:
                found += f" with {', '.join(map(str, options))}"
            raise ValueError(
                f"sampler: expected euler, found {found}: the alternating strategies make their own steps, "
                "re-noising included. Choose euler, without Noise Re-injection Sampler, or another "
                "strategy."
            )
        super().__init__(sample_alternating, {"keyframes": keyframes}, sampler.inpaint_options)

    def sampler_steps(self, steps: int) -> int:
        """How many sampler steps run in all: each is made in both directions."""
        return 2 * steps


def making_single_steps(sampler_function: SamplerFunction) -> SamplerFunction:
    """A k-diffusion sampler that makes one step when it is given two noise levels; with more it is as it was."""
    name = getattr(sampler_function, "__name__", "")
    if name in _SHOWN_TO_THE_NEXT_EVALUATION + _STOPPING_ABOVE_ZERO:
        return partial(
            _single_step, sampler_function, name in _SHOWN_TO_THE_NEXT_EVALUATION, name in _STOPPING_ABOVE_ZERO
        )
    return sampler_function


def _single_step(
    sampler_function: SamplerFunction,
    shown: bool,
    above_zero: bool,
    model,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    **arguments,
) -> torch.Tensor:
    """Between two levels, a third makes the sampler finish the step: one before 0, or one whose evaluation shows it."""
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
    """Ends a sampler's run when its step's latents have been shown to the model."""

    def __init__(self, latents: torch.Tensor):
        super().__init__()
        self.latents = latents


class _UntilBelow:
    """The model up to the first evaluation below a noise level, which ends the sampling."""

    def __init__(self, model, level: float):
        self._model, self._level = model, level

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, **arguments) -> torch.Tensor:
        if float(sigma.max()) < self._level:
            raise _Reached(x)
        return self._model(x, sigma, **arguments)

    def __getattr__(self, name: str):
        return getattr(self._model, name)
