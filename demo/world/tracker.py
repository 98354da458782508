"""Finds the objects in frames without being told where they are, and how far each is from where it should be.

The tracker knows how an object looks and how it is turned (the true cut-out of that frame) and the ground behind it,
not its place. It tries every whole-pixel place, keeps the one where the frame is most like the object, and refines it
to a fraction of a pixel. The objects of a clip have colours of their own, so one is seldom taken for another:
in true frames 5 of 705 times.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .render import Cutout, cutout_mask
from .world import Clip

SEEN = 0.5
"""Frames in which less than this share of the object is visible do not count."""
VISIBLE_ENERGY = 0.15
"""The least share of the object's contrast that a place must show to be considered."""


@dataclass(frozen=True)
class Track:
    """Where the objects were found: `centre` in pixels, `[objects, frames, 2]`.

    `likeness`: how like the object the frame is there, at most 1, `[objects, frames]`.
    """

    centre: torch.Tensor
    likeness: torch.Tensor


def object_templates(clip: Clip, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Object `index` of each frame, cut out with its centre in the middle pixel.

    Opacity `[frames, 1, s, s]` and colour `[frames, 3, s, s]`, s odd.
    """
    motion, one = clip.motion, slice(index, index + 1)
    looks = Cutout(*(getattr(clip.cutout, name)[one] for name in ("shape", "length", "head", "tail")))
    side = int(looks.length.max() * motion.scale[index].max()) // 2 * 2 + 5
    middle = torch.full((1, motion.heading.shape[1], 2), (side - 1) / 2)
    opacity, colour = cutout_mask(looks, middle, motion.heading[one], motion.scale[one], side)
    return opacity[0], colour[0]


@dataclass(frozen=True)
class Fit:
    """`gain`: squared error that the object explains when put at each pixel of each frame, `[frames, h, w]`.

    `strength` in [0, 1]: what it has there; `likeness`, at most 1: how like it the frame is there.
    """

    gain: torch.Tensor
    strength: torch.Tensor
    likeness: torch.Tensor

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
    """How well the object explains the residual r = (frame − ground b) w at each pixel; w = 1 − what hides it.

    With opacity m, colour c and d = m (c − b), the object at strength a explains `2 a Σ r d − a² Σ w d²`. The best a
    in [0, 1] is taken: a pale or blurred object is found as well as a perfect one. Another object that differs more
    from the ground explains more, so the likeness is 2 Σ r d / (Σ w d² + Σ m r²): 1 for r = d, less for more or less.
    Every sum is a correlation of the frame with a template. Places that show less than `least_energy` of the largest
    Σ w d² count for nothing: a little noise would do as a match there.
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
    gain = strength * (2 * overlap - strength * own)
    likeness = 2 * overlap / (own + _correlate(residual.square(), m)).clamp(min=1e-6)
    nothing = torch.zeros_like(own)
    return Fit(torch.where(enough, gain, nothing), strength, torch.where(enough, likeness, nothing))


def best_place(values: torch.Tensor) -> torch.Tensor:
    """Row and column of each frame's largest value, `[frames, 2]`, of `[frames, h, w]`."""
    best = values.flatten(1).argmax(1)
    return torch.stack((best // values.shape[-1], best % values.shape[-1]), 1)


def _correlate(pictures: torch.Tensor, templates: torch.Tensor) -> torch.Tensor:
    """Sum over the channels of each frame's correlation with its own template, `[frames, h, w]`."""
    reach, (height, width) = templates.shape[-1] // 2, pictures.shape[-2:]
    size = [side + 2 * reach for side in (height, width)]
    seen, wanted = torch.fft.rfft2(pictures, s=size), torch.fft.rfft2(templates, s=size)
    found = torch.fft.irfft2((seen * wanted.conj()).sum(1), s=size)
    # Lag 0 puts a template's corner on the picture's; its middle is what counts.
    return found.roll((reach, reach), (1, 2))[:, :height, :width]


def _refine(values: torch.Tensor, best: int) -> float:
    """Vertex of the parabola through a minimum and its neighbours, as an index."""
    if best in (0, len(values) - 1):
        return float(best)
    left, middle, right = (float(values[i]) for i in (best - 1, best, best + 1))
    bend = left - 2 * middle + right
    return best + (0.5 * (left - right) / bend if bend > 0 else 0.0)


def track(frames: torch.Tensor, clip: Clip) -> Track:
    """Finds the clip's objects in `frames` (true or generated), in [0, 1], `[frames, 3, h, w]`.

    Raises ValueError if the shape is not that of the clip's own frames.
    """
    if frames.shape != clip.frames.shape:
        raise ValueError(f"frames: expected the clip's shape {tuple(clip.frames.shape)}, found {tuple(frames.shape)}.")
    difference = frames.to(clip.ground.dtype) - clip.ground
    centres, likeness = [], []
    for index, hidden in enumerate(clip.hidden):
        clear = 1 - hidden
        found = fit(difference * clear, clip.ground, clear, *object_templates(clip, index)).likeness
        places = best_place(found).tolist()
        centres.append([(_refine(-like[y], x), _refine(-like[:, x], y)) for like, (y, x) in zip(found, places)])
        likeness.append(found.flatten(1).amax(1))
    return Track(torch.tensor(centres), torch.stack(likeness))


def motion_errors(centres: torch.Tensor, clip: Clip) -> torch.Tensor:
    """Pixels between where each object was found and where it truly is, `[objects, frames]`.

    NaN where less than half of it can be seen.
    """
    return seen((centres - clip.motion.centre).norm(dim=-1), clip)


def speeds(centres: torch.Tensor, clip: Clip) -> torch.Tensor:
    """Pixels from one frame to the next along each object's true heading, `[objects, frames − 1]`; below 0: tail first.

    NaN where less than half of it can be seen.
    """
    heading = clip.motion.heading
    ahead = torch.stack((heading.cos(), heading.sin()), -1)
    places = seen(centres, clip)
    return ((places[:, 1:] - places[:, :-1]) * (ahead[:, 1:] + ahead[:, :-1]) / 2).sum(-1)


def seen(values: torch.Tensor, clip: Clip) -> torch.Tensor:
    """`[objects, frames, …]` with NaN for the frames in which less than half of the object can be seen."""
    visible = clip.motion.visibility >= SEEN
    return torch.where(visible.view(*visible.shape, *[1] * (values.dim() - 2)), values, torch.nan)
