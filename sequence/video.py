"""The video of a sequence: whether it fits into memory, and its frames, put together clip by clip."""

from dataclasses import replace

import comfy.model_management
import comfy.sd
import torch

from ..common.latents import LATENT_CHANNELS, LATENT_PIXELS
from .plan import Plan, subdivided_frames

_COLOURS, _BYTES_OF_A_NUMBER = 3, 4
# A clip while it is decoded: what the VAE returns, and the frames that it has just made.
_COPIES_IN_DECODING = 2
# Of the latents: each clip's, and the video's.
_COPIES_OF_LATENTS = 2


def check_video_fits(plan: Plan, width: int, height: int) -> None:
    """Raises ValueError, naming the input to lower, when the video's frames do not fit into memory."""
    available = _available_memory()
    needed = needed_bytes(plan, width, height)
    if needed <= available:
        return
    source, fewest = plan.frames_input, 3 if plan.subdivisions else 2
    shortest = replace(plan, segments=[replace(segment, frames=fewest) for segment in plan.segments])
    if plan.subdivisions and needed_bytes(replace(plan, subdivisions=0), width, height) <= available:
        name, advice = "subdivisions", f"Lower subdivisions, {source.to_change}, or width and height"
    elif needed_bytes(shortest, width, height) <= available:
        name, advice = source.name, f"Lower {source.to_change}, or width and height"
    else:
        name, advice = "width", "Lower width and height"
    longest = max(subdivided_frames(segment.frames, plan.subdivisions) for segment in plan.segments)
    raise ValueError(
        f"{name}: expected a video that fits into the {_gib(available)} GiB of memory that are free, found "
        f"{plan.frames} frames (up to {longest} a segment), which take {_gib(needed)} GiB. {advice}, or give fewer "
        "keyframes at a time."
    )


def needed_bytes(plan: Plan, width: int, height: int) -> int:
    """What is in memory at most, when the last clip is decoded."""
    decoding = _COPIES_IN_DECODING * max(segment.frames for segment in plan.segments)
    # A single clip's frames are the video's.
    pictures = decoding + (0 if plan.clips == 1 else plan.frames)
    # Whole numbers: a number of frames can be too large for any other.
    latents = _COPIES_OF_LATENTS * plan.frames * LATENT_CHANNELS // LATENT_PIXELS**2
    return (pictures * _COLOURS + latents) * width * height * _BYTES_OF_A_NUMBER


class Video:
    """A video of so many frames, made of clips that are added in their order."""

    def __init__(self, vae: comfy.sd.VAE, frames: int):
        self._vae, self._frames, self._position = vae, frames, 0
        self._images: torch.Tensor | None = None

    @property
    def images(self) -> torch.Tensor:
        """`[frames, height, width, 3]` in 0…1, complete when the last clip was added."""
        assert self._images is not None, "a video has at least one clip"
        return self._images

    def add(self, latents: torch.Tensor) -> None:
        """Decodes the next clip, `[frames, 4, h, w]`, straight into its place.

        Its first frame is the last of the clip before and is shown once.
        """
        comfy.model_management.throw_exception_if_processing_interrupted()
        decoded = self._vae.decode(latents)
        shown = decoded[min(self._position, 1) :][: self._frames - self._position]
        if len(shown) == self._frames:
            # A single clip's frames are the video's, without a copy.
            self._images = shown
        else:
            images = shown.new_empty([self._frames, *shown.shape[1:]]) if self._images is None else self._images
            images[self._position : self._position + len(shown)] = shown
            self._images = images
        self._position += len(shown)


def _available_memory() -> int:
    device = comfy.model_management.intermediate_device()
    if device.type == "cpu":
        return comfy.model_management.get_free_memory(device)  # pyright: ignore[reportReturnType] - one number, as nothing more is asked for
    # From a GPU the models are moved away first.
    return comfy.model_management.get_total_memory(device)  # pyright: ignore[reportReturnType] - one number, as nothing more is asked for


def _gib(number: int) -> str:
    tenths = int(number) * 10 >> 30
    return f"{tenths // 10}.{tenths % 10}"
