"""A report on a clip: one picture of three plots."""

import torch

from ..common.remarks import remark
from .measures import change, distance, ghosting, reduced
from .pictures import checked_frames, holds_numbers, to_image
from .plots import Line, Plot, draw_plots


def report(frames: torch.Tensor, keyframes: list[int]) -> torch.Tensor:
    """IMAGE `[1, height, width, 3]` of the plots for the frames `[n, height, width, channels]` in 0…1.

    Change from frame to frame; distance to the first and the last keyframe; suspicion of ghosting between neighbouring
    keyframes. `keyframes`: their rising positions, at least two. Frames with NaN or infinity are gaps in the lines.
    Raises ValueError, naming the input, for fewer keyframes or no pictures.
    """
    frames = checked_frames(frames, "images")
    if len(keyframes) < 2:
        raise ValueError(
            f"keyframes: expected at least two different positions, found {len(keyframes)}. A video of "
            "one segment has 0, -1."
        )
    pixels, count, broken = reduced(frames), len(frames), ~holds_numbers(frames)
    pixels[broken] = float("nan")
    note = f"{int(broken.sum())} of {count} frames hold NaN or infinity" if broken.any() else ""
    if note:
        remark(f"images: {note}.")
    everywhere = list(range(count))
    changes = Line("change", everywhere[1:], (100 * change(pixels)).tolist())
    distances = [
        Line(name, everywhere, (100 * distance(pixels, pixels[position])).tolist())
        for name, position in (("to the first keyframe", keyframes[0]), ("to the last keyframe", keyframes[-1]))
    ]
    ghosts = Line("ghosting", everywhere, ghosting(pixels, keyframes).tolist())
    plots = [
        Plot(title, lines, count, keyframes, smallest_top=1.0, note=note)
        for title, lines in (
            ("Change from the frame before, % of full brightness", [changes]),
            ("Distance to the keyframes, % of full brightness", distances),
            ("Ghosting suspected: 0 none, 1 half of each keyframe", [ghosts]),
        )
    ]
    return to_image(draw_plots(plots))
