"""The host's KSampler with the dual-direction guider and re-injections in it."""

import comfy.sample
import comfy.samplers
import comfy.utils
import torch

from .clip_preview import clip_preview
from .dual_direction_settings import DualDirectionSettings
from .guider import DualDirectionGuider
from .intermediate import handed_on
from .latent_checks import check_batch_index, check_samples
from .presets import SamplerSettings
from .progress import Callback
from .reinjection_sampler import ReinjectionSampler
from .remarks import remark
from .schedules import check_sampler, noise_levels


def dual_direction_ksampler(
    model,
    positive: list,
    negative: list,
    latent: dict,
    seed: int,
    denoise: float,
    settings: SamplerSettings,
    directions: DualDirectionSettings,
    callback: Callback | None = None,
) -> dict:
    """The LATENT between the keyframes; `latent` itself is not changed.

    Sequential strategies re-noise by themselves: no re-injections then. `callback(evaluation, x0, x, evaluations)`: the
    host's bar and preview by default. Raises ValueError as the guider does.
    """
    check_sampler(settings.sampler_name, settings.scheduler, directions.sequential)
    guider = DualDirectionGuider(model, positive, negative, directions)
    sigmas = noise_levels(model, settings.sampler_name, settings.scheduler, settings.steps, denoise)
    sampler = comfy.samplers.sampler_object(settings.sampler_name)
    if not directions.sequential:
        sampler = ReinjectionSampler(sampler, settings.reinjections, settings.reinjection_share)
    check_samples(latent["samples"])
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    check_batch_index(latent.get("batch_index"), len(samples))
    noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    callback = callback or clip_preview(model, max(len(sigmas) - 1, 1))
    result = guider.sample(
        noise, samples, sampler, sigmas, latent.get("noise_mask"), callback, not comfy.utils.PROGRESS_BAR_ENABLED, seed
    )
    if not torch.isfinite(result).all():
        remark(
            "Dual-direction sampling: the result holds NaN or infinity, and its frames will be black or broken. Run "
            "it again, or start ComfyUI with --force-fp32."
        )
    return {**latent, "samples": handed_on(result)}
