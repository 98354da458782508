"""Finds the main object in frames without being told where it is, and how far it is from where it should be.

The tracker knows how the object looks and how it is turned (the true cut-out of that frame) and the ground behind it,
not its place. It tries every whole-pixel place, keeps the one that explains the frame best, and refines it to a
fraction of a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .render import cutout_mask
from .world import Clip

SEEN = 0.5
"""Frames in which less than this share of the object is visible do not count."""
VISIBLE_ENERGY = 0.15
"""The least share of the object's contrast that a place must show to be considered."""


@dataclass(frozen=True)
class Track:
    """``centre`` of the main object, pixels ``[frames, 2]``; ``explained``: share of the frame's difference to the
    ground that the object there explains, in [0, 1], ``[frames]``."""

    centre: torch.Tensor
    explained: torch.Tensor


def object_templates(clip: Clip) -> tuple[torch.Tensor, torch.Tensor]:
    """The main object of each frame, cut out with its centre in the middle pixel: opacity ``[frames, 1, s, s]`` and
    colour ``[frames, 3, s, s]``, s odd."""
    motion = clip.motion
    frames = motion.heading.shape[1]
    side = int(clip.cutout.length.max() * motion.scale[0].max()) // 2 * 2 + 5
    middle = torch.full((1, frames, 2), (side - 1) / 2)
    opacity, colour = cutout_mask(clip.cutout, middle, motion.heading[:1], motion.scale[:1], side)
    return opacity[0], colour[0]


def match(
    frames: torch.Tensor, ground: torch.Tensor, post: torch.Tensor, opacity: torch.Tensor, colour: torch.Tensor
) -> torch.Tensor:
    """Squared error that the object explains when put at each pixel of each frame, ``[frames, h, w]``.

    With residual r = frame − ground b, opacity m, colour c, d = m (c − b) and w = 1 − post, the object at
    strength a explains ``2 a Σ w r d − a² Σ w d²``. The best a in [0, 1] is taken: a pale or blurred object is found
    as well as a perfect one. Every sum is a correlation of the frame with a template.
    """
    count, _, height, width = frames.shape
    reach = opacity.shape[-1] // 2

    def correlate(picture: torch.Tensor, template: torch.Tensor) -> torch.Tensor:
        padded = F.pad(picture, (reach,) * 4)
        result = F.conv2d(padded.reshape(1, -1, *padded.shape[-2:]), template, groups=count)
        return result.view(count, height, width)

    m, m2 = opacity.expand(-1, 3, -1, -1), opacity.square().expand(-1, 3, -1, -1)
    clear = (1 - post).expand(-1, 3, -1, -1)
    residual = (frames - ground) * clear
    own = (
        correlate(clear, m2 * colour.square())
        - 2 * correlate(clear * ground, m2 * colour)
        + correlate(clear * ground.square(), m2)
    )
    overlap = correlate(residual, m * colour) - correlate(residual * ground, m)
    # Where little of the object would be in the picture, a little noise would do as a match.
    enough = own > VISIBLE_ENERGY * own.flatten(1).amax(1).view(-1, 1, 1)
    strength = (overlap / own.clamp(min=1e-6)).clamp(0, 1)
    return torch.where(enough, strength * (2 * overlap - strength * own), torch.zeros_like(own))


def _refine(values: torch.Tensor, best: int) -> float:
    """Vertex of the parabola through a minimum and its neighbours, as an index."""
    if best in (0, len(values) - 1):
        return float(best)
    left, middle, right = (float(values[i]) for i in (best - 1, best, best + 1))
    bend = left - 2 * middle + right
    return best + (0.5 * (left - right) / bend if bend > 0 else 0.0)


def track(frames: torch.Tensor, clip: Clip) -> Track:
    """Finds the clip's main object in ``frames`` (true or generated), in [0, 1], ``[frames, 3, h, w]``.

    Raises:
        ValueError: if the shape is not that of the clip's own frames.
    """
    if frames.shape != clip.frames.shape:
        raise ValueError(f"frames: expected the clip's shape {tuple(clip.frames.shape)}, found {tuple(frames.shape)}.")
    frames = frames.to(clip.background.dtype)
    explained = match(frames, clip.background, clip.post, *object_templates(clip))
    total = (frames - clip.background).square().flatten(1).sum(1).clamp(min=1e-6)
    centres = []
    for surface in -explained:
        y, x = divmod(int(surface.argmin()), surface.shape[1])
        centres.append((_refine(surface[y], x), _refine(surface[:, x], y)))
    return Track(torch.tensor(centres), explained.flatten(1).amax(1) / total)


def motion_error(frames: torch.Tensor, clip: Clip) -> float:
    """Mean distance in pixels between where the object is found and where it truly is, over the in-between frames
    (all but the first and the last) in which at least half of it can be seen."""
    distance = (track(frames, clip).centre - clip.motion.centre[0]).norm(dim=-1)[1:-1]
    seen = clip.motion.visibility[0, 1:-1] >= SEEN
    return float(distance[seen].mean()) if bool(seen.any()) else float("nan")


def cross_fade(first: torch.Tensor, last: torch.Tensor, frames: int) -> torch.Tensor:
    """The two pictures blended linearly over the frames, ``[frames, 3, h, w]``."""
    share = torch.linspace(0, 1, frames).view(-1, 1, 1, 1)
    return first + share * (last - first)
