"""Run by ComfyUI's own Python: draw a video's frames in a grid, between the two keyframes that were given.

python contact_sheet.py VIDEO.mp4 FIRST.png LAST.png SHEET.png
"""

from __future__ import annotations

import math
import os
import secrets
import sys
from pathlib import Path

import av
from PIL import Image, ImageDraw, ImageOps

TILE_WIDTH = 192
CAPTION = 16
GAP = 8
PAPER, INK, KEYFRAME = "white", "black", "#c02020"


def read_frames(video: Path) -> list[Image.Image]:
    with av.open(str(video)) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


def read_keyframe(path: Path, size: tuple[int, int]) -> Image.Image:
    """The picture as it is cropped for the video."""
    with Image.open(path) as picture:
        return ImageOps.fit(ImageOps.exif_transpose(picture).convert("RGB"), size, Image.Resampling.LANCZOS)


def contact_sheet(first: Image.Image, frames: list[Image.Image], last: Image.Image) -> Image.Image:
    """A grid of captioned tiles in reading order; the keyframes are framed."""
    tiles = [("first keyframe", first, True)]
    tiles += [(f"frame {number}", frame, False) for number, frame in enumerate(frames, 1)]
    tiles += [("last keyframe", last, True)]
    height = round(TILE_WIDTH * first.height / first.width)
    columns = min(len(tiles), max(4, math.ceil(math.sqrt(len(tiles)))))
    rows = math.ceil(len(tiles) / columns)
    step_x, step_y = TILE_WIDTH + GAP, height + CAPTION + GAP
    sheet = Image.new("RGB", (columns * step_x + GAP, rows * step_y + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, (caption, picture, is_keyframe) in enumerate(tiles):
        x, y = GAP + index % columns * step_x, GAP + index // columns * step_y
        sheet.paste(picture.resize((TILE_WIDTH, height), Image.Resampling.LANCZOS), (x, y + CAPTION))
        draw.text((x, y), caption, fill=KEYFRAME if is_keyframe else INK)
        if is_keyframe:
            draw.rectangle((x, y + CAPTION, x + TILE_WIDTH - 1, y + CAPTION + height - 1), outline=KEYFRAME, width=3)
    return sheet


def main() -> None:
    video, first, last, target = map(Path, sys.argv[1:])
    frames = read_frames(video)
    size = frames[0].size
    sheet = contact_sheet(read_keyframe(first, size), frames, read_keyframe(last, size))
    # A name that nobody can know, and no file there yet: in a shared folder it could be a link to something else.
    partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}.partial")
    try:
        with partial.open("xb") as stream:
            sheet.save(stream, "PNG")
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
