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
    """Where the main object was found: `centre` in pixels, `[frames, 2]`.

    `explained`: share of the frame's difference to the ground that the object there explains, in [0, 1], `[frames]`.
    """

    centre: torch.Tensor
    explained: torch.Tensor


def object_templates(clip: Clip) -> tuple[torch.Tensor, torch.Tensor]:
    """The main object of each frame, cut out with its centre in the middle pixel.

    Opacity `[frames, 1, s, s]` and colour `[frames, 3, s, s]`, s odd.
    """
    motion = clip.motion
    frames = motion.heading.shape[1]
    side = int(clip.cutout.length.max() * motion.scale[0].max()) // 2 * 2 + 5
    middle = torch.full((1, frames, 2), (side - 1) / 2)
    opacity, colour = cutout_mask(clip.cutout, middle, motion.heading[:1], motion.scale[:1], side)
    return opacity[0], colour[0]


@dataclass(frozen=True)
class Fit:
    """`gain`: squared error that the object explains when put at each pixel of each frame, `[frames, h, w]`.

    `strength` in [0, 1]: what it has there.
    """

    gain: torch.Tensor
    strength: torch.Tensor

    def best(self) -> torch.Tensor:
        """Row and column of the pixel that explains most of each frame, `[frames, 2]`."""
        width = self.gain.shape[-1]
        best = self.gain.flatten(1).argmax(1)
        return torch.stack((best // width, best % width), 1)

    def strength_at(self, place: torch.Tensor) -> torch.Tensor:
        """The strength at one pixel of each frame, `[frames]`."""
        return self.strength[torch.arange(len(place)), place[:, 0], place[:, 1]]


def fit(
    residual: torch.Tensor,
    ground: torch.Tensor,
    clear: torch.Tensor,
    opacity: torch.Tensor,
    colour: torch.Tensor,
    least_energy: float = VISIBLE_ENERGY,
) -> Fit:
    """How well the object explains the residual r = (frame − ground b) w at each pixel; w = 1 − post.

    With opacity m, colour c and d = m (c − b), the object at strength a explains `2 a Σ r d − a² Σ w d²`. The best a
    in [0, 1] is taken: a pale or blurred object is found as well as a perfect one. Every sum is a correlation of the
    frame with a template. Places that show less than `least_energy` of the largest Σ w d² count for nothing: a little
    noise would do as a match there.
    """
    m, m2 = opacity.expand_as(colour), opacity.square().expand_as(colour)
    clear = clear.expand_as(ground)
    own = (
        _correlate(clear, m2 * colour.square())
        - 2 * _correlate(clear * ground, m2 * colour)
        + _correlate(clear * ground.square(), m2)
    )
    overlap = _correlate(residual, m * colour) - _correlate(residual * ground, m)
    enough = own > least_energy * own.flatten(1).amax(1).view(-1, 1, 1)
    strength = (overlap / own.clamp(min=1e-6)).clamp(0, 1)
    return Fit(torch.where(enough, strength * (2 * overlap - strength * own), torch.zeros_like(own)), strength)


def _correlate(pictures: torch.Tensor, templates: torch.Tensor) -> torch.Tensor:
    """Sum over the channels of each frame's correlation with its own template, `[frames, h, w]`."""
    padded = F.pad(pictures, (templates.shape[-1] // 2,) * 4)
    return F.conv2d(padded.flatten(0, 1)[None], templates, groups=len(pictures))[0]


def _refine(values: torch.Tensor, best: int) -> float:
    """Vertex of the parabola through a minimum and its neighbours, as an index."""
    if best in (0, len(values) - 1):
        return float(best)
    left, middle, right = (float(values[i]) for i in (best - 1, best, best + 1))
    bend = left - 2 * middle + right
    return best + (0.5 * (left - right) / bend if bend > 0 else 0.0)


def track(frames: torch.Tensor, clip: Clip) -> Track:
    """Finds the clip's main object in `frames` (true or generated), in [0, 1], `[frames, 3, h, w]`.

    Raises ValueError if the shape is not that of the clip's own frames.
    """
    if frames.shape != clip.frames.shape:
        raise ValueError(f"frames: expected the clip's shape {tuple(clip.frames.shape)}, found {tuple(frames.shape)}.")
    frames = frames.to(clip.background.dtype)
    difference, clear = frames - clip.background, 1 - clip.post
    found = fit(difference * clear, clip.background, clear, *object_templates(clip))
    centres = [
        (_refine(-gain[y], x), _refine(-gain[:, x], y)) for gain, (y, x) in zip(found.gain, found.best().tolist())
    ]
    explained = found.gain.flatten(1).amax(1) / difference.square().flatten(1).sum(1).clamp(min=1e-6)
    return Track(torch.tensor(centres), explained)


def motion_errors(centres: torch.Tensor, clip: Clip) -> torch.Tensor:
    """Pixels between where the main object was found and where it truly is, `[frames]`.

    NaN where less than half of it can be seen.
    """
    return seen((centres - clip.motion.centre[0]).norm(dim=-1), clip)


def speeds(centres: torch.Tensor, clip: Clip) -> torch.Tensor:
    """Pixels from one frame to the next along the main object's true heading, `[frames − 1]`; below 0: tail first.

    NaN where less than half of it can be seen.
    """
    heading = clip.motion.heading[0]
    ahead = torch.stack((heading.cos(), heading.sin()), 1)
    places = seen(centres, clip)
    return ((places[1:] - places[:-1]) * (ahead[1:] + ahead[:-1]) / 2).sum(1)


def seen(values: torch.Tensor, clip: Clip) -> torch.Tensor:
    """`[frames, …]` with NaN for the frames in which less than half of the main object can be seen."""
    visible = clip.motion.visibility[0] >= SEEN
    return torch.where(visible.view(-1, *[1] * (values.dim() - 1)), values, torch.nan)
