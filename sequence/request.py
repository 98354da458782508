"""What a user asks for, and its fingerprint: a finished clip is taken up again only for the same request."""

import dataclasses
from dataclasses import dataclass

import comfy.cli_args
import comfy.ldm.modules.attention
import comfy.samplers
import comfyui_version

from ..sampler.ksampler import noise_levels
from ..sampler.settings import GuiderSettings, SamplerSettings
from .fingerprint import fingerprint, model_fingerprint

# To be raised whenever the same request gives another video than before.
_VERSION = 3


@dataclass(frozen=True)
class ClipSettings:
    """What a user chooses for every clip of a sequence: Encode Keyframes and Dual-Direction KSampler in one."""

    width: int
    height: int
    fps: int
    motion_bucket: int
    noise_augmentation: float
    fit: str
    seed: int
    sampler_settings: SamplerSettings
    guider_settings: GuiderSettings
    separate_noise: bool = False


def request_fingerprint(model, clip_vision, vae, settings: ClipSettings) -> str:
    """32 hexadecimal digits of everything that all clips of a sequence depend on. Raises CannotBeKnown."""
    sampler = settings.sampler_settings
    # However many videos go through the UNet at a time, the result is the same.
    guider_settings = dataclasses.replace(settings.guider_settings, videos_per_call="")
    return fingerprint(
        [
            _VERSION,
            _host_as_started(),
            dataclasses.replace(settings, guider_settings=guider_settings),
            comfy.samplers.sampler_object(sampler.sampler_name),
            noise_levels(model, sampler.sampler_name, sampler.scheduler, sampler.steps, 1.0),
            model_fingerprint(model, clip_vision, vae),
        ]
    )


def _host_as_started() -> list[object]:
    """The host's version, and those of its launch options that change numbers and leave no trace in the models."""
    options = comfy.cli_args.args
    return [
        comfyui_version.__version__,
        comfy.ldm.modules.attention.optimized_attention,
        options.fast,
        options.force_upcast_attention,
        options.dont_upcast_attention,
        options.deterministic,
    ]
