"""The host's SAMPLER with noise re-injection around it."""

from functools import partial

import comfy.samplers

from .reinjection import sample_with_reinjection, sampler_passes
from .single_step import making_single_steps


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

    def passes(self, steps: int) -> int:
        """How many sampler steps run in all, re-injections included."""
        return sampler_passes(steps, self.reinjections, self.share)
