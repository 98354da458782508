"""The host's SAMPLERs with the method in them: re-injections around any of them, alternating steps in Euler's place.

Re-injection has a sampler make some steps and stop, which some of the host's do not do when they are asked to: `uni_pc`
and older hosts' `sa_solver` show a step's latents only to the model's next evaluation and return those from before it;
`uni_pc`, `dpm_fast` and `dpm_adaptive` stop at the last level above 0.
"""

from functools import partial

import comfy.k_diffusion.sampling
import comfy.samplers
import torch

from ..common.remarks import remark
from .method.alternating import KeyframeLatents, alternating_half_steps, sample_alternating
from .method.motion_prior import Distillation
from .method.reinjection import Reinjection, SamplerFunction, sample_with_reinjection

_SHOWN_TO_THE_NEXT_EVALUATION = ("sample_unipc", "sample_unipc_bh2", "sample_sa_solver", "sample_sa_solver_pece")
_STOPPING_ABOVE_ZERO = ("sample_unipc", "sample_unipc_bh2", "dpm_fast_function", "dpm_adaptive_function")
# Where `uni_pc` itself ends.
_LOWEST_LEVEL = 0.001


class ReinjectionSampler(comfy.samplers.KSAMPLER):
    """Any k-diffusion SAMPLER of the host, with re-injections on its early steps.

    Raises ValueError when the sampler is none of the host's k-diffusion samplers, or has re-injections already.
    """

    def __init__(self, sampler: comfy.samplers.KSAMPLER, reinjection: Reinjection):
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
        self._reinjection = reinjection
        # The sampler's own options stay with it, whatever their names.
        options = {
            "sampler_function": partial(making_single_steps(sampler.sampler_function), **sampler.extra_options),
            "inner_sampler_function": partial(stopping_at_the_last(sampler.sampler_function), **sampler.extra_options),
            "reinjection": reinjection,
        }
        super().__init__(sample_with_reinjection, options, sampler.inpaint_options)

    def sample(self, model_wrap, sigmas: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        """As the host's; a remark where no jump fits into the steps that are to be repeated."""
        steps, reinjection = len(sigmas) - 1, self._reinjection
        early = reinjection.early_steps(steps)
        if reinjection.times and early:
            _check_falling(sigmas)
        if reinjection.times and early and not reinjection.jumps(steps):
            remark(
                f"Noise re-injection: a jump back over jump_length, {reinjection.jump_length}, does not fit into "
                f"the first {early} of {steps} steps, so nothing is repeated. Lower it, raise reinjection_share, or "
                "turn repeat_first_step on."
            )
        return super().sample(model_wrap, sigmas, *args, **kwargs)

    def sampler_steps(self, steps: int) -> int:
        """How many sampler steps run in all, re-injections included."""
        return self._reinjection.sampler_steps(steps)


class AlternatingSampler(comfy.samplers.KSAMPLER):
    """The steps of alternating sampling, which are Euler's in each direction.

    Raises ValueError, naming the input, when the sampler that it replaces is not `euler`.
    """

    def __init__(
        self, sampler: comfy.samplers.Sampler, keyframes: KeyframeLatents, distillation: Distillation | None = None
    ):
        function = getattr(sampler, "sampler_function", None)
        is_euler = function is comfy.k_diffusion.sampling.sample_euler
        if not (isinstance(sampler, comfy.samplers.KSAMPLER) and is_euler) or sampler.extra_options:
            found = getattr(function, "__name__", type(sampler).__name__).removeprefix("sample_")
            options = getattr(sampler, "extra_options", None)
            if isinstance(sampler, ReinjectionSampler):
                found = "a Noise Re-injection Sampler"
            elif options:
                found += f" with {', '.join(map(str, options))}"
            raise ValueError(
                f"sampler: expected euler, found {found}: the alternating strategies make their own steps, "
                "re-noising included. Choose euler, without Noise Re-injection Sampler, or another "
                "strategy."
            )
        self._distillation = distillation
        super().__init__(
            sample_alternating, {"keyframes": keyframes, "distillation": distillation}, sampler.inpaint_options
        )

    def sample(self, model_wrap, sigmas: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        """As the host's. Raises ValueError for noise levels that rise."""
        _check_falling(sigmas)
        return super().sample(model_wrap, sigmas, *args, **kwargs)

    def sampler_steps(self, steps: int) -> int:
        """How many half-steps run in all."""
        return alternating_half_steps(steps, self._distillation)


def _check_falling(sigmas: torch.Tensor) -> None:
    """New noise takes a step back to the level that it came from, which is only possible from a lower one."""
    if (sigmas[1:] > sigmas[:-1]).any():
        raise ValueError(
            "sigmas: expected noise levels that fall, as alternating strategies and re-injections need them, found "
            "some that rise. Remove FlipSigmas, or sample these without re-injections and with another strategy."
        )


def making_single_steps(sampler_function: SamplerFunction) -> SamplerFunction:
    """A k-diffusion sampler that makes one step when it is given two noise levels; with more it is as it was."""
    name, at_last = getattr(sampler_function, "__name__", ""), stopping_at_the_last(sampler_function)
    if name not in _SHOWN_TO_THE_NEXT_EVALUATION + _STOPPING_ABOVE_ZERO:
        return sampler_function

    def single_step(model, x: torch.Tensor, sigmas: torch.Tensor, **arguments) -> torch.Tensor:
        if len(sigmas) == 2 and sigmas[1] > 0:
            return at_last(model, x, sigmas, **arguments)
        if len(sigmas) == 2 and name in _STOPPING_ABOVE_ZERO:
            # One more level before 0 makes the sampler finish the step.
            sigmas = torch.stack([sigmas[0], sigmas[0].clamp(max=_LOWEST_LEVEL), sigmas[1]])
            if name in _SHOWN_TO_THE_NEXT_EVALUATION:
                return _until_below(float(sigmas[:2].mean()), sampler_function, model, x, sigmas, **arguments)
        return sampler_function(model, x, sigmas, **arguments)

    return single_step


def stopping_at_the_last(sampler_function: SamplerFunction) -> SamplerFunction:
    """A k-diffusion sampler that gives the latents at the last of its noise levels, all of which are above 0."""
    if getattr(sampler_function, "__name__", "") not in _SHOWN_TO_THE_NEXT_EVALUATION:
        return sampler_function

    def at_last(model, x: torch.Tensor, sigmas: torch.Tensor, **arguments) -> torch.Tensor:
        # One more level makes the sampler evaluate, and so show, the latents at the last one.
        levels = torch.stack([*sigmas, sigmas[-1] / 2])
        return _until_below(float(sigmas[-2:].mean()), sampler_function, model, x, levels, **arguments)

    return at_last


def _until_below(
    level: float, sampler_function: SamplerFunction, model, x: torch.Tensor, sigmas: torch.Tensor, **arguments
) -> torch.Tensor:
    """The latents that the sampler shows to the first evaluation below a noise level."""
    try:
        return sampler_function(_UntilBelow(model, level), x, sigmas, **arguments)
    except _Reached as reached:
        return reached.latents


class _Reached(Exception):
    """Ends a sampler's run when its last step's latents have been shown to the model."""

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
