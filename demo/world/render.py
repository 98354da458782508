"""Drawing of the small world: soft-edged shapes with a head and a tail, over panning backgrounds.

Coordinates are pixels, x to the right and y down, with the centre of the top-left pixel at (0, 0). Everything is
batched over the leading dimensions and runs on plain tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

SHAPES = ("dart", "drop", "arrow", "fish")


@dataclass(frozen=True)
class Cutout:
    """Appearance of one object per clip.

    `shape`: index into `SHAPES`, `[n]`; `length`: tip to tail at scale 1, in pixels, `[n]`; `head`, `tail`: colours in
    [0, 1], `[n, 3]`; `texture`: a square of a photograph with zero mean, `[n, 3, t, t]`, added to the colours.
    """

    shape: torch.Tensor
    length: torch.Tensor
    head: torch.Tensor
    tail: torch.Tensor
    texture: torch.Tensor


def half_widths(u: torch.Tensor) -> list[torch.Tensor]:
    """Half the width of each shape at position `u` along its axis; both in units of half the length.

    `u` runs from -1 (tail) to 1 (tip). Negative means outside. One tensor per entry of `SHAPES`.
    """
    dart = 0.29 * (1 - u)
    head_centre, radius = 0.5, 0.5
    round_head = (radius**2 - (u - head_centre).square()).clamp(min=0).sqrt()
    drop = torch.where(u > head_centre - 0.15, round_head, (u + 1) * 0.48 / 1.35)
    arrow = torch.where(u > 0.0, 0.62 * (1 - u), torch.full_like(u, 0.2))
    body = (1 - ((u - 0.3) / 0.7).square()).clamp(min=0).sqrt() * 0.42
    fin = (-0.25 - u).clamp(min=0) * 0.62
    fish = torch.maximum(body, fin)
    return [dart, drop, arrow, fish]


def cutout_mask(
    cutout: Cutout, centre: torch.Tensor, heading: torch.Tensor, scale: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Opacity `[n, frames, 1, size, size]` and colour `[n, frames, 3, size, size]` of the objects, both in [0, 1].

    `centre`: pixels, `[n, frames, 2]` (x, y); `heading`: radians, 0 to the right, growing clockwise on the screen,
    `[n, frames]`; `scale`: factor on the length, `[n, frames]`; `size`: picture side in pixels.
    """
    axis = torch.arange(size, dtype=centre.dtype)
    dx = axis.view(1, 1, 1, size) - centre[..., 0, None, None]
    dy = axis.view(1, 1, size, 1) - centre[..., 1, None, None]
    cos, sin = heading.cos()[..., None, None], heading.sin()[..., None, None]
    half = (cutout.length[:, None] * scale / 2)[..., None, None]
    u, v = (dx * cos + dy * sin) / half, (dy * cos - dx * sin) / half
    widths = half_widths(u)
    width = torch.zeros_like(u)
    for index, candidate in enumerate(widths):
        width = torch.where((cutout.shape == index).view(-1, 1, 1, 1), candidate, width)
    edge = (0.5 + (width - v.abs()) * half * 0.9).clamp(0, 1)
    ends = (0.5 + (1 - u.abs()) * half).clamp(0, 1)
    opacity = (edge * ends).unsqueeze(2)

    towards_head = torch.sigmoid((u - 0.25) * 8).unsqueeze(2)
    colour = (
        cutout.tail[:, None, :, None, None] * (1 - towards_head) + cutout.head[:, None, :, None, None] * towards_head
    )
    return opacity, (colour + _texture(cutout.texture, u, v)).clamp(0, 1)


def _texture(texture: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    n, frames, height, width = u.shape
    grid = torch.stack((u, v), -1).view(n, frames * height, width, 2)
    sampled = F.grid_sample(texture, grid, align_corners=True, padding_mode="border")
    return sampled.view(n, 3, frames, height, width).transpose(1, 2)


def pan_and_zoom(pictures: torch.Tensor, shift: torch.Tensor, zoom: torch.Tensor, size: int) -> torch.Tensor:
    """A window of each picture that moves over the frames, `[n, frames, 3, size, size]`.

    `pictures`: larger than the window, in [0, 1], `[n, 3, s, s]`; `shift`: pixels by which the picture's content moves,
    `[n, frames, 2]`; `zoom`: factor by which the content grows, `[n, frames]`.
    """
    n, frames = zoom.shape
    axis = torch.arange(size, dtype=pictures.dtype) - (size - 1) / 2
    reach = (pictures.shape[-1] - 1) / 2
    x = (axis.view(1, 1, 1, size) / zoom[..., None, None] - shift[..., 0, None, None]) / reach
    y = (axis.view(1, 1, size, 1) / zoom[..., None, None] - shift[..., 1, None, None]) / reach
    x, y = torch.broadcast_tensors(x, y)
    grid = torch.stack((x, y), -1).view(n, frames * size, size, 2)
    window = F.grid_sample(pictures, grid, align_corners=True, padding_mode="border")
    return window.view(n, 3, frames, size, size).transpose(1, 2)


def paste(below: torch.Tensor, opacity: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
    """`colour` over `below` with `opacity`; shapes broadcast."""
    return below + opacity * (colour - below)
