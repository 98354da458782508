"""Plots and contact sheets, as PNG."""

from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from ...common.atomic_write import atomic_write

CAPTION, DPI = 20, 100
LEAST_SIDE = 128
"""Smaller frames are enlarged, in pixels."""


def contact_sheet(path: Path, rows: dict[str, Path]) -> None:
    """Strips of frames below each other, {caption: strip}; those that there are not are left out.

    `inspection/`'s contact sheet numbers the frames of one video; this one captions the videos of many methods.
    """
    strips = {caption: Image.open(strip) for caption, strip in rows.items() if strip.exists()}
    if not strips:
        return
    width, height = next(iter(strips.values())).size
    zoom = max(1, LEAST_SIDE // height)
    size = zoom * width / DPI, len(strips) * (zoom * height + CAPTION) / DPI
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    for axis, (caption, strip) in zip(figure.subplots(len(strips), 1, squeeze=False)[:, 0], strips.items()):
        axis.imshow(strip, interpolation="nearest")
        axis.set_title(caption, loc="left", fontsize="small", pad=2)
        axis.set_axis_off()
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a matplotlib figure as PNG."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
