"""What a user asks for, and its fingerprint: a finished clip is taken up again only for the same request."""

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path

import comfy.cli_args
import comfy.ldm.modules.attention
import comfy.samplers
import comfyui_version

from ..sampler.ksampler import noise_levels
from ..sampler.settings import Settings
from .fingerprint import fingerprint, model_fingerprint

_PACK = Path(__file__).resolve().parents[1]
# What is imported for a clip: everything below the nodes.
_FOLDERS = ("common", "sampler", "sequence", "weights")


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
    sampling: Settings
    separate_noise: bool = False


def request_fingerprint(model, clip_vision, vae, settings: ClipSettings) -> str:
    """32 hexadecimal digits of everything that all clips of a sequence depend on. Raises CannotBeKnown."""
    sampler = settings.sampling.sampler
    # However many videos go through the UNet at a time, the result is the same.
    guider = dataclasses.replace(settings.sampling.guider, videos_per_call="")
    return fingerprint(
        [
            code_fingerprint(_PACK),
            _host_as_started(),
            dataclasses.replace(settings, sampling=Settings(sampler, guider)),
            comfy.samplers.sampler_object(sampler.sampler_name),
            noise_levels(model, sampler.sampler_name, sampler.scheduler, sampler.steps, 1.0),
            model_fingerprint(model, clip_vision, vae),
        ]
    )


@functools.cache
def code_fingerprint(pack: Path) -> str:
    """Of the code below `pack` that makes a clip: a request may give another video with another version of it.

    Comments, docstrings and layout do not count.
    """
    files = sorted(file for folder in _FOLDERS for file in (pack / folder).rglob("*.py"))
    return fingerprint(
        [
            # As `python -OO` has it, without docstrings.
            (file.relative_to(pack).as_posix(), compile(file.read_bytes(), file.name, "exec", optimize=2))
            for file in files
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
