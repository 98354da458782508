"""A contact sheet: all frames of a clip in one picture, numbered, the keyframes marked."""

import math

import torch
from PIL import Image, ImageDraw

from ..common.remarks import remark
from .pictures import checked_frames, font, holds_numbers, to_image, to_picture

_TILE = 256
WIDEST = 4096
_GAP = 6
_LABEL = 24
_FRAME = 4
_PAPER, _INK = (24, 24, 24), (210, 210, 210)
MARK, WARNING = (255, 176, 0), (255, 90, 80)
_ASPECT = 16 / 9


def contact_sheet(frames: torch.Tensor, columns: int, keyframes: list[int]) -> torch.Tensor:
    """IMAGE `[1, height, width, 3]` of the frames `[n, h, w, channels]`, row by row from the top left.

    `columns`: 0 for as many as make the sheet about 16 : 9; `keyframes`: positions to be marked. The longer side of a
    frame takes 256 pixels, less when the sheet would be wider than 4096. A frame with NaN or infinity is marked so.
    """
    frames = checked_frames(frames, "images")
    whole = holds_numbers(frames).tolist()
    if not all(whole):
        remark(f"images: {whole.count(False)} of {len(frames)} frames hold NaN or infinity.")
    count, height, width = frames.shape[:3]
    columns = min(columns or sheet_columns(count, width, height), count)
    side = min(_TILE, WIDEST // columns - _GAP)
    size = max(1, round(width * side / max(width, height))), max(1, round(height * side / max(width, height)))
    cell = size[0] + _GAP, size[1] + _LABEL + _GAP
    sheet = Image.new("RGB", (columns * cell[0] + _GAP, math.ceil(count / columns) * cell[1] + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, frame in enumerate(frames):
        left, top = _GAP + index % columns * cell[0], _GAP + index // columns * cell[1]
        sheet.paste(to_picture(frame).resize(size, Image.Resampling.LANCZOS), (left, top))
        _label(draw, left, top, size, index, index in keyframes, whole[index])
    return to_image(sheet)


def sheet_columns(count: int, width: int, height: int) -> int:
    """How many columns make a sheet of `count` frames of that size about 16 : 9."""
    return max(1, round(math.sqrt(count * height / width * _ASPECT)))


def _label(
    draw: ImageDraw.ImageDraw, left: int, top: int, size: tuple[int, int], index: int, marked: bool, whole: bool
) -> None:
    if marked:
        draw.rectangle((left, top, left + size[0] - 1, top + size[1] - 1), outline=MARK, width=_FRAME)
    # Where a tile is narrow the frame around it has to do.
    text = f"{index}  keyframe" if marked and size[0] >= 128 else str(index)
    colour = MARK if marked else _INK
    if not whole:
        text, colour = f"{index}  NaN", WARNING
    draw.text((left + 2, top + size[1] + 2), text, fill=colour, font=font(16))
