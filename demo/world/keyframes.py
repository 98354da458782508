"""Writes the demo's keyframes: pictures of one clip of the small world's held-out split.

    python -m generative_inbetweening.demo.world.keyframes [--seed 4000435] [--out demo]

`first.png` and `last.png` are the clip's first and last frame, in the size that the demo's model was trained on.
`middle_wide.png` and `last_tall.png` are the frame half-way and the last one, larger and with more ground at two sides,
for the graphs whose keyframes are pictures of any size.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from ...common.atomic_write import atomic_write
from .world import FRAMES, SIZE, make_clip

SEED = 4_000_435
"""Chosen by eye: one object that turns on a long way, whole in all keyframes."""
WIDE, TALL = (288, 192), (144, 192)
"""Width and height in pixels; the shorter side is the frame's."""


def keyframes(seed: int = SEED) -> dict[str, torch.Tensor]:
    """{name: picture `[3, h, w]` in [0, 1]} of the test split's clip with that seed."""
    # Of an odd number of frames one is half-way.
    frames = 2 * FRAMES - 1
    own = make_clip(seed, "test", frames, SIZE).frames
    return {
        "first": own[0],
        "last": own[-1],
        "middle_wide": _with_more_ground(seed, FRAMES - 1, *WIDE),
        "last_tall": _with_more_ground(seed, frames - 1, *TALL),
    }


def _with_more_ground(seed: int, frame: int, width: int, height: int) -> torch.Tensor:
    """A frame in the middle of a larger picture: the ground goes on, mirrored."""
    side = min(width, height)
    clip = make_clip(seed, "test", 2 * FRAMES - 1, side)
    left, top = (width - side) // 2, (height - side) // 2
    around = (left, width - side - left, top, height - side - top)
    picture = F.pad(clip.ground[frame][None], around, mode="reflect")[0]
    picture[:, top : top + side, left : left + side] = clip.frames[frame]
    return picture


def main(arguments: list[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m generative_inbetweening.demo.world.keyframes", description="Writes the demo's keyframes."
    )
    parser.add_argument("--seed", type=int, default=SEED, help=f"of the clip (default: {SEED})")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1], help="folder for them (default: the demo's)"
    )
    options = parser.parse_args(arguments)
    for name, picture in keyframes(options.seed).items():
        pixels = (picture.clamp(0, 1) * 255).round().byte().movedim(0, -1).numpy()
        with atomic_write(options.out / f"{name}.png") as temporary:
            Image.fromarray(pixels).save(temporary, "PNG", optimize=True)


if __name__ == "__main__":
    main()
