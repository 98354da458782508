"""A finished video whose keyframes are exactly the given pictures; what was changed there fades out around them.

The VAE and the model make the video's frame f_p of a keyframe's picture k. With a wide Gaussian blur G, they differ by
a colour, c = G(k − f_p), and a detail, d = k − f_p − c. Frame t becomes

    f_t + Σ w(t) · (c + s(t) · d)           over the keyframes before and after it
    w(t) = (1 + cos(π · min(1, |t − p| / n))) / 2
    s(t) = exp(−G(|f_t − f_p|²) / 2τ²)      |·|²: mean over the three colours

n: the frames of the fade, at most up to the next keyframe, so that the weights of two keyframes sum to at most 1.
s: detail stays where frame t still shows what frame p shows; where something moved it would be a ghost. How G, τ and n
were chosen: docs/evidence.md.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import comfy.model_management
import torch
import torch.nn.functional as F

from ..common.intermediate import handed_on
from ..common.remarks import remark

# G's standard deviation, as a part of the shorter side.
_BLUR = 1 / 16
TOLERANCE = 0.07
# So wide a blur is the same on a smaller picture.
_BLURRED_SIDE = 64
# Decoding goes a little beyond 0…1; another range, such as 0…255, goes far.
_OVERSHOOT = 0.5
_FEWEST = 3


@dataclass(frozen=True)
class _Difference:
    """A keyframe's frame in the video and what its picture adds to it, each `[height, width, 3]`."""

    frame: torch.Tensor
    colour: torch.Tensor
    detail: torch.Tensor


def check_video(images: torch.Tensor) -> None:
    """Raises ValueError, naming the input, for anything but three frames or more of 1, 3 or 4 channels in 0…1."""
    if images.ndim != 4 or images.shape[3] not in (1, 3, 4) or min(images.shape) == 0 or images.is_complex():
        raise ValueError(
            f"images: expected frames of shape (frames, height, width, channels) with 1, 3 or 4 channels, found "
            f"{tuple(images.shape)}. Connect the frames of a video."
        )
    if len(images) < _FEWEST:
        raise ValueError(
            f"images: expected at least {_FEWEST} frames, found {len(images)}. Connect the whole video, before "
            "anything is cut off."
        )
    for frame in images:
        darkest, brightest = (float(each) for each in frame.float().nan_to_num(0, 0, 0).aminmax())
        if darkest < -_OVERSHOOT or brightest > 1 + _OVERSHOOT:
            raise ValueError(
                f"images: expected colours from 0 to 1, found {darkest:.4g} to {brightest:.4g}. Scale them in the "
                "node before it."
            )


def match_keyframes(
    images: torch.Tensor,
    pictures: Mapping[int, torch.Tensor],
    fade: int,
    loop: bool = False,
    tolerance: float = TOLERANCE,
) -> torch.Tensor:
    """The video with each of `pictures` in its place, `[frames, height, width, 3 or 4]`.

    `images`: a video that `check_video` let pass; grey becomes RGB, alpha stays. `pictures`: {frame: picture of the
    video's size, `[1, height, width, 3]` in 0…1}; `fade`: frames over which their differences fade out; `loop`: the
    first frame follows the last; `tolerance`: τ, as a share of full brightness. A frame with NaN or infinity stays as
    it is, unless a picture takes its place.
    """
    shape, like = (*images.shape[:3], max(images.shape[3], 3)), handed_on(images[:0])
    result = torch.empty(shape, dtype=like.dtype, device=like.device)
    broken = 0
    for number, (frame, matched) in enumerate(
        zip(images, _matched_frames(images, pictures, fade, loop, tolerance), strict=True)
    ):
        comfy.model_management.throw_exception_if_processing_interrupted()
        broken += not bool(torch.isfinite(frame).all())
        result[number, ..., :3] = matched
        result[number, ..., 3:] = frame[..., 3:]
    if broken:
        remark(f"images: {broken} of {len(images)} frames hold NaN or infinity.")
    return result


def _matched_frames(
    images: torch.Tensor, pictures: Mapping[int, torch.Tensor], fade: int, loop: bool, tolerance: float
) -> Iterator[torch.Tensor]:
    """Frame by frame, `[height, width, 3]`: a long video in float32 would take as much memory again."""
    places, differences = sorted(pictures), {}
    for number in range(len(images)):
        frame = corrected = _colours(images[number])
        if number in pictures:
            yield pictures[number][0]
            continue
        weights = fade_weights(number, places, len(images), fade, loop)
        differences = {
            place: differences[place] if place in differences else _difference(images[place], pictures[place])
            for place in weights
        }
        for place, weight in weights.items():
            difference = differences[place]
            if difference is not None and torch.isfinite(frame).all():
                corrected = corrected + weight * _correction(frame, difference, tolerance)
        yield frame if corrected is frame else corrected.clamp(0, 1)


def fade_weights(number: int, places: list[int], frames: int, fade: int, loop: bool) -> dict[int, float]:
    """{keyframe's place: w} of the keyframes before and after frame `number`, those that count; w in 0…1.

    `places`: rising. Where there is no keyframe on the other side the fade ends with the video.
    """
    around = [place + turn for turn in ((-frames, 0, frames) if loop else (0,)) for place in places]
    before = max((place for place in around if place <= number), default=None)
    after = min((place for place in around if place > number), default=None)
    # One keyframe or the video's end bounds the other's fade.
    gap = max((frames - 1 if after is None else after) - (0 if before is None else before), 1)
    weights: dict[int, float] = {}
    for place in (before, after):
        distance = gap if place is None else abs(number - place)
        if place is not None and distance < min(fade, gap):
            w = (1 + math.cos(math.pi * distance / min(fade, gap))) / 2
            # In a loop of one keyframe it stands on both sides.
            weights[place % frames] = weights.get(place % frames, 0.0) + w
    return weights


def _difference(frame: torch.Tensor, picture: torch.Tensor) -> _Difference | None:
    """None where the video's frame holds NaN or infinity: what was changed there cannot be known."""
    frame = _colours(frame)
    difference = picture[0].to(frame) - frame
    if not torch.isfinite(difference).all():
        return None
    colour = blurred(difference)
    return _Difference(frame, colour, difference - colour)


def _correction(frame: torch.Tensor, keyframe: _Difference, tolerance: float) -> torch.Tensor:
    """c + s(t) · d."""
    distance = blurred((frame - keyframe.frame).square().mean(dim=-1, keepdim=True))
    return keyframe.colour + torch.exp(-distance / (2 * tolerance**2)) * keyframe.detail


def _colours(frame: torch.Tensor) -> torch.Tensor:
    """`[height, width, 3]` in float32 of a frame of 1, 3 or 4 channels."""
    return (frame.expand(-1, -1, 3) if frame.shape[-1] == 1 else frame[..., :3]).float()


def blurred(picture: torch.Tensor) -> torch.Tensor:
    """G: `[height, width, channels]`, blurred by a sixteenth of the shorter side; beyond the border is nothing."""
    pixels = picture.movedim(-1, 0)[:, None]
    height, width = pixels.shape[-2:]
    factor = max(1.0, min(height, width) / _BLURRED_SIDE)
    small = F.interpolate(pixels, (round(height / factor), round(width / factor)), mode="area")
    inside = torch.ones_like(small[:1])
    for dimension in (-2, -1):
        small, inside = (
            _blurred_along(each, dimension, _BLUR * min(height, width) / factor) for each in (small, inside)
        )
    blurry = small / inside
    if blurry.shape != pixels.shape:
        blurry = F.interpolate(blurry, (height, width), mode="bilinear")
    return blurry[:, 0].movedim(0, -1)


def _blurred_along(pixels: torch.Tensor, dimension: int, sigma: float) -> torch.Tensor:
    reach = math.ceil(3 * sigma)
    distances = torch.arange(-reach, reach + 1, dtype=pixels.dtype, device=pixels.device)
    kernel = torch.exp(-(distances**2) / (2 * sigma**2))
    shape, padding = ((1, 1, -1, 1), (reach, 0)) if dimension == -2 else ((1, 1, 1, -1), (0, reach))
    return F.conv2d(pixels, (kernel / kernel.sum()).reshape(shape), padding=padding)
