"""The host's KSampler with the dual-direction guider and re-injections in it."""

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils

from .choices import check_choice
from .clip_preview import clip_preview
from .guider import DualDirectionGuider, DualDirectionSettings
from .progress import Callback
from .reinjection_sampler import ReinjectionSampler


def dual_direction_ksampler(model, positive: list, negative: list, latent: dict, seed: int, steps: int,
                            sampler_name: str, scheduler: str, denoise: float, reinjections: int, share: float,
                            settings: DualDirectionSettings, callback: Callback | None = None) -> dict:
    """The LATENT between the keyframes; `latent` itself is not changed.

    `reinjections` on the first `share` (0…1) of the steps; `callback(evaluation, x0, x, evaluations)`: the host's bar
    and preview by default. Raises ValueError as the guider does.
    """
    check_choice("sampler_name", sampler_name, comfy.samplers.KSampler.SAMPLERS)
    check_choice("scheduler", scheduler, comfy.samplers.KSampler.SCHEDULERS)
    guider = DualDirectionGuider(model, positive, negative, settings)
    sampler = ReinjectionSampler(comfy.samplers.sampler_object(sampler_name), reinjections, share)
    sigmas = comfy.samplers.KSampler(model, steps, model.load_device, sampler_name, scheduler, denoise,
                                     model.model_options).sigmas
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    callback = callback or clip_preview(model, max(len(sigmas) - 1, 1))
    result = guider.sample(noise, samples, sampler, sigmas, latent.get("noise_mask"), callback,
                           not comfy.utils.PROGRESS_BAR_ENABLED, seed)
    return {**latent, "samples": result.to(comfy.model_management.intermediate_device())}
