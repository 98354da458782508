"""Drawing of the small world: crisp shapes with a head and a tail, their shadows, and panning grounds.

Coordinates are pixels, x to the right and y down, with the centre of the top-left pixel at (0, 0). Everything is
batched over the leading dimensions and runs on plain tensors, on any device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

SHAPES = ("drop", "fish")
NECK = 0.2
"""Where along its axis an object's head begins; its tip is at 1, the end of its tail at -1."""


@dataclass(frozen=True)
class Cutout:
    """Appearance of objects.

    `shape`: index into `SHAPES`, `[n]`; `length`: tip to tail at scale 1, in pixels, `[n]`; `head`, `tail`: colours in
    [0, 1], `[n, 3]`.
    """

    shape: torch.Tensor
    length: torch.Tensor
    head: torch.Tensor
    tail: torch.Tensor


def half_widths(u: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
    """Half the width of the shapes at position `u` along their axis; both in units of half the length.

    `u` runs from -1 (tail) to 1 (tip); `shape`: index into `SHAPES`, broadcast against `u`. Zero means outside.
    """
    head_centre, radius = 0.5, 0.5
    round_head = (radius**2 - (u - head_centre).square()).clamp(min=0).sqrt()
    drop = torch.where(u > head_centre - 0.15, round_head, (u + 1) * 0.48 / 1.35)
    body = (1 - ((u - 0.3) / 0.7).square()).clamp(min=0).sqrt() * 0.42
    fin = (-0.25 - u).clamp(min=0) * 0.62
    return torch.where(shape == 0, drop, torch.maximum(body, fin))


def _axes(
    cutout: Cutout, centre: torch.Tensor, heading: torch.Tensor, scale: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each pixel along and across each object's axis, in units of half its length, and that half in pixels."""
    axis = torch.arange(size, dtype=centre.dtype, device=centre.device)
    dx = axis.view(1, 1, 1, size) - centre[..., 0, None, None]
    dy = axis.view(1, 1, size, 1) - centre[..., 1, None, None]
    cos, sin = heading.cos()[..., None, None], heading.sin()[..., None, None]
    half = (cutout.length[:, None] * scale / 2)[..., None, None]
    return (dx * cos + dy * sin) / half, (dy * cos - dx * sin) / half, half


def _cover(u: torch.Tensor, v: torch.Tensor, half: torch.Tensor, shape: torch.Tensor, softness: float) -> torch.Tensor:
    """Opacity at pixels `u`, `v`; the edge is `softness` pixels wide."""
    width = half_widths(u, shape.view(-1, 1, 1, 1))
    edge = (0.5 + (width - v.abs()) * half * 0.9 / softness).clamp(0, 1)
    return edge * (0.5 + (1 - u.abs()) * half / softness).clamp(0, 1)


def cutout_mask(
    cutout: Cutout, centre: torch.Tensor, heading: torch.Tensor, scale: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Opacity `[n, frames, 1, size, size]` and colour `[n, frames, 3, size, size]` of the objects, both in [0, 1].

    `centre`: pixels, `[n, frames, 2]` (x, y); `heading`: radians, 0 to the right, growing clockwise on the screen,
    `[n, frames]`; `scale`: factor on the length, `[n, frames]`; `size`: picture side in pixels.
    """
    u, v, half = _axes(cutout, centre, heading, scale, size)
    opacity = _cover(u, v, half, cutout.shape, 1.0).unsqueeze(2)
    head = (0.5 + (u - NECK) * half).clamp(0, 1).unsqueeze(2)
    return opacity, paste(cutout.tail[:, None, :, None, None], head, cutout.head[:, None, :, None, None])


def shadow_mask(
    cutout: Cutout, centre: torch.Tensor, heading: torch.Tensor, scale: torch.Tensor, size: int, softness: float
) -> torch.Tensor:
    """How much the objects' shadows cover, `[n, frames, 1, size, size]`; arguments as in `cutout_mask`.

    `centre`: of the shadow; `softness`: width of its edge in pixels.
    """
    u, v, half = _axes(cutout, centre, heading, scale, size)
    return _cover(u, v, half, cutout.shape, softness).unsqueeze(2)


def pan_and_zoom(
    pictures: torch.Tensor,
    corner: torch.Tensor,
    window: torch.Tensor,
    shift: torch.Tensor,
    zoom: torch.Tensor,
    size: int,
) -> torch.Tensor:
    """A window of each picture that moves over the frames, `[n, frames, 3, size, size]`.

    `pictures`: in [0, 1], `[n, 3, s, s]`; `window`: its side as a share of the picture, negative for a mirror image,
    `[n]`; `corner`: where in what is left over it lies, 0 to 1, `[n, 2]`; `shift`: pixels of the result by which the
    picture's content moves, `[n, frames, 2]`; `zoom`: factor by which the content grows, `[n, frames]`.
    """
    n, frames = zoom.shape
    axis = (torch.arange(size, dtype=pictures.dtype, device=pictures.device) - (size - 1) / 2) * (2 / size)
    side = window.abs().view(n, 1, 1, 1)
    middle = ((1 - window.abs())[:, None] * (2 * corner - 1)).view(n, 1, 1, 1, 2)
    move = (shift * (2 / size))[..., None, None, :]
    x = middle[..., 0] + window.view(n, 1, 1, 1) * (axis.view(1, 1, 1, size) / zoom[..., None, None] - move[..., 0])
    y = middle[..., 1] + side * (axis.view(1, 1, size, 1) / zoom[..., None, None] - move[..., 1])
    x, y = torch.broadcast_tensors(x, y)
    grid = torch.stack((x, y), -1).view(n, frames * size, size, 2)
    found = F.grid_sample(pictures, grid, align_corners=False, padding_mode="reflection")
    return found.view(n, 3, frames, size, size).transpose(1, 2)


def paste(below: torch.Tensor, opacity: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
    """`colour` over `below` with `opacity`; shapes broadcast."""
    return below + opacity * (colour - below)
