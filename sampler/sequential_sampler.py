"""The host's SAMPLER for sequential sampling, in the place of an Euler sampler."""

import comfy.k_diffusion.sampling
import comfy.samplers

from .sequential import KeyframeLatents, sample_sequential


class SequentialSampler(comfy.samplers.KSAMPLER):
    """The steps of sequential sampling, which are Euler's in each direction.

    Raises ValueError, naming the input, when the sampler that it replaces is not `euler`.
    """

    def __init__(self, sampler: comfy.samplers.Sampler, keyframes: KeyframeLatents):
        function = getattr(sampler, "sampler_function", None)
        if function is not comfy.k_diffusion.sampling.sample_euler or sampler.extra_options:
            found = getattr(function, "__name__", type(sampler).__name__).removeprefix("sample_")
            if getattr(sampler, "extra_options", None):
                found += f" with {', '.join(map(str, sampler.extra_options))}"
            raise ValueError(
                f"sampler: expected euler, found {found}: the sequential strategies make their own steps, "
                "re-noising included. Choose euler, without Noise Re-injection Sampler, or another "
                "strategy."
            )
        super().__init__(sample_sequential, {"keyframes": keyframes}, sampler.inpaint_options)

    def passes(self, steps: int) -> int:
        """How many sampler steps run in all: each is made twice."""
        return 2 * steps
