"""Plain line plots, drawn with Pillow: the host has no plotting library."""

import math
from dataclasses import dataclass, field
from itertools import groupby

from PIL import Image, ImageDraw

from .pictures import font

WIDTH, HEIGHT = 960, 280
# Drawn larger and reduced at the end, lines and letters are smooth.
_SCALE = 2
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 20, 48, 46
_PAPER, _INK, _GRID, _MARK = (255, 255, 255), (40, 40, 40), (222, 222, 222), (214, 140, 0)
WARNING = (190, 30, 30)
COLOURS = ((31, 98, 180), (200, 60, 50), (40, 140, 70))


@dataclass(frozen=True)
class Line:
    """One curve: `values` at `positions` on the x axis; NaN and infinity are gaps."""

    name: str
    positions: list[int]
    values: list[float]


@dataclass(frozen=True)
class Plot:
    """A plot of lines over frames; `marks`: frames with a vertical line; `smallest_top`: the y axis reaches it; `note`:
    a warning beside the title.
    """

    title: str
    lines: list[Line]
    frames: int
    marks: list[int] = field(default_factory=list)
    smallest_top: float = 0.01
    note: str = ""


def draw_plots(plots: list[Plot]) -> Image.Image:
    """The plots below each other, 960 pixels wide."""
    picture = Image.new("RGB", (WIDTH * _SCALE, HEIGHT * len(plots) * _SCALE), _PAPER)
    draw = ImageDraw.Draw(picture)
    for index, plot in enumerate(plots):
        _Axes(draw, plot, index * HEIGHT).draw()
    return picture.resize((WIDTH, HEIGHT * len(plots)), Image.Resampling.LANCZOS)


def ticks(top: float, most: int = 5) -> list[float]:
    """Round numbers from 0 to `top` or just below it, in steps of 1, 2 or 5 · 10ⁿ, at most `most` steps."""
    step = 10.0 ** math.floor(math.log10(top / most))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step * most >= top * (1 - 1e-9))
    return [number * step for number in range(math.floor(top / step + 1e-9) + 1)]


class _Axes:
    """Where values lie in the picture, and the drawing there."""

    def __init__(self, draw: ImageDraw.ImageDraw, plot: Plot, offset: int):
        self._draw, self._plot = draw, plot
        highest = max((value for line in plot.lines for value in line.values if math.isfinite(value)), default=0)
        self._top_value = max(highest * 1.08, plot.smallest_top)
        self._left, self._right = _LEFT, WIDTH - _RIGHT
        self._top, self._bottom = offset + _TOP, offset + HEIGHT - _BOTTOM

    def draw(self) -> None:
        """The whole plot."""
        self._text(self._left, self._top - 34, self._plot.title, size=18)
        self._text(self._right, self._top - 34, self._plot.note, anchor="ra", colour=WARNING)
        self._grid()
        for position in self._plot.marks:
            self._segment([(self._x(position), self._top), (self._x(position), self._bottom)], _MARK, 2)
        for line, colour in zip(self._plot.lines, COLOURS):
            points = []
            for is_number, part in groupby(zip(line.positions, line.values), lambda point: math.isfinite(point[1])):
                if is_number:
                    run = [(self._x(position), self._y(value)) for position, value in part]
                    self._segment(run, colour, 2)
                    points += run
            for x, y in points if len(points) <= 100 else []:
                self._draw.ellipse(
                    [(part - 3) * _SCALE for part in (x, y)] + [(part + 3) * _SCALE for part in (x, y)], fill=colour
                )
        self._legend()

    def _grid(self) -> None:
        for value in ticks(self._top_value):
            self._segment([(self._left, self._y(value)), (self._right, self._y(value))], _GRID, 1)
            self._text(self._left - 8, self._y(value), f"{value:.4g}", anchor="rm")
        last = max(self._plot.frames - 1, 1)
        for value in ticks(last, 12):
            if value == int(value):
                self._text(self._x(int(value)), self._bottom + 6, f"{int(value)}", anchor="ma")
        self._segment([(self._left, self._top), (self._left, self._bottom), (self._right, self._bottom)], _INK, 1)
        self._text((self._left + self._right) / 2, self._bottom + 24, "frame", anchor="ma")

    def _legend(self) -> None:
        names = (
            [(line.name, colour) for line, colour in zip(self._plot.lines, COLOURS)]
            if len(self._plot.lines) > 1
            else []
        )
        if self._plot.marks:
            names.append(("keyframe", _MARK))
        right = self._right
        for name, colour in reversed(names):
            self._text(right, self._top - 18, name, anchor="rm", colour=colour)
            right -= self._draw.textlength(name, font=font(14 * _SCALE)) / _SCALE + 18

    def _x(self, position: int) -> float:
        return self._left + 8 + (self._right - self._left - 16) * position / max(self._plot.frames - 1, 1)

    def _y(self, value: float) -> float:
        return self._bottom - (self._bottom - self._top) * value / self._top_value

    def _segment(self, points: list[tuple[float, float]], colour: tuple[int, int, int], width: int) -> None:
        self._draw.line([(x * _SCALE, y * _SCALE) for x, y in points], fill=colour, width=width * _SCALE)

    def _text(
        self, x: float, y: float, text: str, size: int = 14, anchor: str = "la", colour: tuple[int, int, int] = _INK
    ) -> None:
        self._draw.text((x * _SCALE, y * _SCALE), text, fill=colour, font=font(size * _SCALE), anchor=anchor)
