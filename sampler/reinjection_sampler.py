"""The host's SAMPLER with noise re-injection around it."""

import comfy.samplers

from .reinjection import sample_with_reinjection, sampler_passes


class ReinjectionSampler(comfy.samplers.KSAMPLER):
    """Any k-diffusion SAMPLER of the host, with re-injections on the first `share` of its steps.

    Raises ValueError when the sampler is none of the host's k-diffusion samplers.
    """

    def __init__(self, sampler: comfy.samplers.KSAMPLER, reinjections: int, share: float):
        if not hasattr(sampler, "sampler_function"):
            raise ValueError(f"sampler: expected one of ComfyUI's samplers, found {type(sampler).__name__}, which runs "
                             "in its own way. Choose one with KSamplerSelect.")
        self.reinjections, self.share = reinjections, share
        options = {**sampler.extra_options, "sampler_function": sampler.sampler_function,
                   "reinjections": reinjections, "share": share}
        super().__init__(sample_with_reinjection, options, sampler.inpaint_options)

    def passes(self, steps: int) -> int:
        """How many sampler steps run in all, re-injections included."""
        return sampler_passes(steps, self.reinjections, self.share)
