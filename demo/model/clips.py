"""Writes clips of the small world as folders of frames, the data that `fine_tune.py` reads.

python -m generative_inbetweening.demo.model.clips --out CLIPS --clips 256
python -m generative_inbetweening.demo.model.clips --out HELD_OUT --clips 32 --split test
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from ..world.world import make_clips

# Beyond every seed that the base model is trained or tested on.
_FIRST_SEED = 2_000_000
_CLIPS_AT_ONCE = 32


def write_clips(out: Path, clips: int, split: str) -> None:
    """Writes `clips` clips as `out/00000/000.png`, …; `split` is `train` or `test`."""
    for start in range(0, clips, _CLIPS_AT_ONCE):
        numbers = range(start, min(start + _CLIPS_AT_ONCE, clips))
        for number, clip in zip(numbers, make_clips([_FIRST_SEED + number for number in numbers], split)):
            folder = out / f"{number:05d}"
            folder.mkdir(parents=True, exist_ok=True)
            for index, frame in enumerate(clip.frames):
                pixels = (frame.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
                Image.fromarray(pixels).save(folder / f"{index:03d}.png")


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m generative_inbetweening.demo.model.clips", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the clips")
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--split", choices=("train", "test"), default="train")
    options = parser.parse_args()
    write_clips(options.out, options.clips, options.split)


if __name__ == "__main__":
    main()
