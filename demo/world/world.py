"""A small procedural world with known truth, an arrow of time and more than one future for each picture.

Cut-outs with a head and a tail fly head first over grounds made of photographs, cast shadows and slow down; the first
frame does not tell how fast they are, nor where they will turn. Read backward, a clip shows things that speed up tail
first, which the world never does. Most clips have two or three objects. They curve or change course, cross and hide one
another; some come nearer, some pass behind a post, and some grounds pan.

A clip is a function of its split and seed alone. The splits share neither photographs nor random numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .draws import Draws
from .render import SHAPES, Cutout, cutout_mask, pan_and_zoom, paste, shadow_mask

PHOTOGRAPHS = {
    "train": ("astronaut", "coffee", "hubble_deep_field", "retina", "camera", "grass", "gravel", "brick"),
    "test": ("chelsea", "rocket", "clock"),
}
SIZE = 128
"""Pixels along the side of a picture in which all lengths below are measured; other sizes show the same scaled."""
FRAMES = 8
SLOWING = 0.8
"""Factor on the speed from one of eight frames to the next."""
TRAVEL = (40.0, 100.0)
"""Range of the way from the first to the last frame, along the path."""
LENGTH = (36.0, 44.0)
HUES = 6
"""Colours of the objects' tails; their heads are white."""
MOST_OBJECTS = 3
OBJECTS = (0.30, 0.50, 0.20)
"""Shares of the clips with one, two and three objects."""
COURSES = {"straight": 0.25, "curve": 0.40, "change of course": 0.35}
APPROACHING, MEETING, BEHIND_A_POST, PANNING = 0.12, 0.6, 0.15, 0.15
"""Shares: of objects that come nearer, of further objects sent across the first one's way, of clips with a post, and of
clips whose ground pans."""
_BEND = 0.2
"""Share of its way that an object takes to change its course."""
_MARGIN = 16.0
_HEAD, _SATURATION, _VALUE = 0.97, (0.8, 0.8), (0.85, 0.85)
_SHADOW = (4.0, 6.0)
_SHADOW_SOFTNESS, _SHADOW_DEPTH = 5.0, 0.5
_GROUND_BLUR = 7.0
_PATH_POINTS = 65


@dataclass(frozen=True)
class Motion:
    """Where the objects of one clip are, the farthest from the eye first: each one hides those before it.

    `centre` pixels `[objects, frames, 2]`; `heading` radians `[objects, frames]`; `scale` factor on the length
    `[objects, frames]`; `visibility` share of the object not hidden, in [0, 1], `[objects, frames]`.
    """

    centre: torch.Tensor
    heading: torch.Tensor
    scale: torch.Tensor
    visibility: torch.Tensor


@dataclass(frozen=True)
class Clip:
    """One clip with its truth.

    `frames` in [0, 1], `[frames, 3, size, size]`; `ground` the same without objects and shadows (posts included);
    `without` the same with one object taken out, its shadow left, `[objects, frames, 3, size, size]`;
    `opacity` and `colour` of each object by itself, `[objects, frames, 1 or 3, size, size]`; `hidden`: how far what is
    nearer covers each object's pixels, `[objects, frames, 1, size, size]`; `cutout`: looks, one row an object.
    """

    frames: torch.Tensor
    ground: torch.Tensor
    without: torch.Tensor
    opacity: torch.Tensor
    colour: torch.Tensor
    hidden: torch.Tensor
    cutout: Cutout
    motion: Motion
    seed: int
    split: str


@dataclass(frozen=True)
class Difficulty:
    """How hard a clip's middle is to guess from its ends; each number is that of its worst object.

    `motion`: way from the first to the last frame in lengths of the object; `turning`: radians between its headings in
    the two; `occlusion`: the largest share of it that is hidden in an in-between frame.
    """

    motion: float
    turning: float
    occlusion: float


@dataclass(frozen=True)
class Plan:
    """Everything random about `n` clips, on one device, in pixels of a picture `SIZE` wide; k = `MOST_OBJECTS`.

    `present` `[n, k]`; `centre` `[n, k, frames, 2]`; `heading`, `scale` `[n, k, frames]`; looks as in `Cutout`, `[n, k,
    …]`; `post_place`, `post_half_width` `[n]` (negative: no post), `post_upright` `[n]`, `post_colour` `[n, 3]`; the
    ground as in `pan_and_zoom`, `[n, …]`, recoloured to mean `base` `[n, 3]` and standard deviation `contrast` `[n]`
    with its channels in `order` `[n, 3]`.
    """

    present: torch.Tensor
    centre: torch.Tensor
    heading: torch.Tensor
    scale: torch.Tensor
    shape: torch.Tensor
    length: torch.Tensor
    head: torch.Tensor
    tail: torch.Tensor
    post_place: torch.Tensor
    post_half_width: torch.Tensor
    post_upright: torch.Tensor
    post_colour: torch.Tensor
    photograph: torch.Tensor
    corner: torch.Tensor
    window: torch.Tensor
    shift: torch.Tensor
    zoom: torch.Tensor
    order: torch.Tensor
    base: torch.Tensor
    contrast: torch.Tensor


@cache
def _photographs(split: str, device: torch.device) -> torch.Tensor:
    """The split's photographs, smoothed, `[n, 3, 160, 160]` in [0, 1]."""
    folder = Path(__file__).parents[1] / "photographs"
    pictures = [np.asarray(Image.open(folder / f"{name}.png").convert("RGB")) for name in PHOTOGRAPHS[split]]
    sharp = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    reach = int(3 * _GROUND_BLUR)
    kernel = torch.exp(-torch.arange(-reach, reach + 1.0).square() / (2 * _GROUND_BLUR**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1).expand(3, 1, 1, -1)
    smooth = F.pad(sharp, (reach,) * 4, mode="reflect")
    smooth = F.conv2d(F.conv2d(smooth, kernel, groups=3), kernel.transpose(2, 3), groups=3)
    return smooth.to(device)


def _progress(frames: int, device: torch.device) -> torch.Tensor:
    """Share of the way covered at each frame, from 0 to 1, for a thing that slows down by `SLOWING`."""
    # The whole clip lasts as long as eight frames whatever the frame count, so that the speeds stay comparable.
    time = torch.linspace(0, FRAMES - 1, frames, device=device)
    return (1 - SLOWING**time) / (1 - SLOWING ** (FRAMES - 1))


def _choose(draws: Draws, shares: tuple[float, ...], shape: tuple[int, ...] = ()) -> torch.Tensor:
    """Index of one of the shares, `[n, *shape]`."""
    number = draws.uniform(shape=shape)
    return sum((number >= sum(shares[: index + 1])).long() for index in range(len(shares) - 1))


def _colours(draws: Draws, hue: torch.Tensor, saturation: tuple[float, float], value: tuple[float, float]):
    """Colours of so many hues (a full circle is 6), `[…, 3]`."""
    shape = tuple(hue.shape[1:])
    s, v = draws.uniform(*saturation, shape)[..., None], draws.uniform(*value, shape)[..., None]
    apart = (hue[..., None] - torch.tensor((0.0, 2.0, 4.0), device=hue.device)).abs() % 6
    return v * (1 - s * (torch.minimum(apart, 6 - apart) - 1).clamp(0, 1))


def _along(values: torch.Tensor, progress: torch.Tensor) -> torch.Tensor:
    """Values at the points of a path, `[…, points, 2]`, read at shares of the way, `[…, frames]`."""
    place = progress * (values.shape[-2] - 1)
    before = place.floor().long().clamp(max=values.shape[-2] - 2)
    left, right = (values.gather(-2, (before + k)[..., None].expand(*before.shape, 2)) for k in (0, 1))
    return left + (right - left) * (place - before)[..., None]


def _courses(draws: Draws, k: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of each object's path relative to its first, and its heading there, `[n, k, points, 2 or 1]`."""
    kind = _choose(draws, tuple(COURSES.values()), (k,))[..., None]
    share = torch.linspace(0, 1, _PATH_POINTS, device=device)
    bend = draws.uniform(0.3, 0.6, (k,))[..., None]
    sharp = ((share - bend) / _BEND + 0.5).clamp(0, 1)
    amount = torch.where(kind == 1, draws.uniform(0.5, 1.6, (k,))[..., None], draws.uniform(0.8, 1.8, (k,))[..., None])
    turn = draws.sign((k,))[..., None] * amount * torch.where(kind == 1, share, sharp * sharp * (3 - 2 * sharp))
    heading = draws.uniform(0, 2 * math.pi, (k,))[..., None] + torch.where(kind == 0, torch.zeros_like(turn), turn)
    middle = (heading[..., 1:] + heading[..., :-1]) / 2
    steps = torch.stack((middle.cos(), middle.sin()), -1) * draws.uniform(*TRAVEL, (k,))[..., None, None]
    points = F.pad((steps / (_PATH_POINTS - 1)).cumsum(-2), (0, 0, 1, 0))
    return points, heading[..., None]


def _place(draws: Draws, points: torch.Tensor, k: int) -> torch.Tensor:
    """Where each path begins, `[n, k, 2]`: in the picture as nearly as it can, and some across the first one's way."""
    low, high = _MARGIN - points.amin(2), SIZE - 1 - _MARGIN - points.amax(2)
    low, high = torch.where(low <= high, low, (low + high) / 2), torch.where(low <= high, high, (low + high) / 2)
    start = low + (high - low) * draws.uniform(shape=(k, 2))
    when, beside = draws.uniform(0.25, 0.7, (k, 2))[..., None], draws.uniform(-8, 8, (k, 2))
    meeting = _along(points[:, :1].expand_as(points), when[..., 0, :]) + start[:, :1, None]
    other = _along(points, when[..., 1, :])
    across = (meeting[:, :, 0] + beside - other[:, :, 0]).clamp(low, high)
    sent = draws.chance(MEETING, (k,))[..., None] & (torch.arange(k, device=start.device) > 0).view(1, k, 1)
    return torch.where(sent, across, start)


def make_plan(seeds: torch.Tensor, split: str, frames: int = FRAMES) -> Plan:
    """All random choices of the clips with these seeds, `[n]`, on the seeds' device; see `make_clips`."""
    if split not in PHOTOGRAPHS:
        raise ValueError(f"split: expected one of {', '.join(PHOTOGRAPHS)}, found {split!r}.")
    if frames < 2:
        raise ValueError(f"frames: expected at least 2, found {frames}.")
    n, k, device = len(seeds), MOST_OBJECTS, seeds.device
    draws = Draws(seeds, list(PHOTOGRAPHS).index(split))
    progress = _progress(frames, device)
    points, headings = _courses(draws, k, device)
    start = _place(draws, points, k)
    at = progress.expand(n, k, frames)
    centre = _along(points, at) + start[:, :, None]
    heading = _along(headings.expand(n, k, _PATH_POINTS, 2), at)[..., 0]
    growth = draws.uniform(0.2, 0.5, (k,)) * draws.chance(APPROACHING, (k,))
    # Hues lie apart, so that every object can be told from the others by its colour.
    hue = draws.integer(HUES)[:, None] + torch.arange(k, device=device) * (HUES // MOST_OBJECTS)
    ends = (points[:, 0, -1] - points[:, 0, 0]).abs()
    upright = ends[:, 0] > ends[:, 1]
    on_the_way = _along(points[:, 0], draws.uniform(0.3, 0.6)[:, None])[:, 0] + start[:, 0]
    width = draws.uniform(7, 11)
    pans = draws.chance(PANNING).float()
    direction = draws.uniform(0, 2 * math.pi)
    pan = torch.stack((direction.cos(), direction.sin()), -1) * (draws.uniform(4, 12) * pans)[:, None]
    return Plan(
        present=torch.arange(k, device=device) <= _choose(draws, OBJECTS)[:, None],
        centre=centre,
        heading=heading,
        scale=1 + growth[..., None] * at,
        shape=draws.integer(len(SHAPES), (k,)),
        length=draws.uniform(*LENGTH, (k,)),
        head=torch.full((n, k, 3), _HEAD, device=device),
        tail=_colours(draws, hue * (6 / HUES), _SATURATION, _VALUE),
        post_place=torch.where(upright, on_the_way[:, 0], on_the_way[:, 1]),
        post_half_width=torch.where(draws.chance(BEHIND_A_POST), width, -torch.ones_like(width)),
        post_upright=upright,
        post_colour=_colours(draws, draws.uniform(0, 6), (0, 0.3), (0.1, 0.3)),
        photograph=draws.integer(len(PHOTOGRAPHS[split])),
        corner=draws.uniform(shape=(2,)),
        window=draws.uniform(0.5, 0.9) * draws.sign(),
        shift=pan[:, None] * progress[:, None],
        zoom=1 + draws.uniform(0, 0.06)[:, None] * pans[:, None] * progress,
        order=draws.uniform(shape=(3,)).argsort(1),
        base=draws.uniform(0.38, 0.48)[:, None] + draws.uniform(-0.04, 0.04, (3,)),
        contrast=draws.uniform(0.06, 0.11),
    )


def _grounds(plan: Plan, split: str, size: int) -> torch.Tensor:
    """Recoloured windows of the smooth photographs, `[n, frames, 3, size, size]`."""
    pictures = _photographs(split, plan.centre.device)[plan.photograph]
    pictures = pictures.gather(1, plan.order[..., None, None].expand_as(pictures))
    view = pan_and_zoom(pictures, plan.corner, plan.window, plan.shift * (size / SIZE), plan.zoom, size)
    mean = view[:, :1].mean((3, 4), keepdim=True)
    spread = view[:, :1].flatten(1).std(1).clamp(min=0.02)
    ground = plan.base[:, None, :, None, None] + (view - mean) * (plan.contrast / spread).view(-1, 1, 1, 1, 1)
    return ground.clamp(0.05, 0.95)


def _posts(plan: Plan, size: int) -> torch.Tensor:
    """Opacity of the posts, `[n, frames, 1, size, size]`; a post is nearer, so it pans half as much again."""
    axis = (torch.arange(size, device=plan.centre.device) + 0.5) * (SIZE / size) - 0.5
    moved = torch.where(plan.post_upright[:, None], plan.shift[..., 0], plan.shift[..., 1]) * 1.5
    distance = (axis - (moved + plan.post_place[:, None])[..., None]).abs()
    # The edge is one pixel of the picture wide, whatever its size.
    band = (0.5 + (plan.post_half_width.view(-1, 1, 1) - distance) * (size / SIZE)).clamp(0, 1)
    band = band * (plan.post_half_width > 0).view(-1, 1, 1)
    across, down = band[..., None, None, :], band[..., None, :, None]
    mask = torch.where(plan.post_upright.view(-1, 1, 1, 1, 1), across, down)
    return mask.expand(*band.shape[:2], 1, size, size)


def _cutouts(plan: Plan, index: int, size: int) -> tuple[Cutout, torch.Tensor]:
    """Looks of object `index` of every clip, and its centres in pixels of this size, `[n, frames, 2]`."""
    looks = (getattr(plan, name)[:, index] for name in ("shape", "length", "head", "tail"))
    shape, length, *rest = looks
    return Cutout(shape, length * (size / SIZE), *rest), (plan.centre[:, index] + 0.5) * (size / SIZE) - 0.5


def _layers(plan: Plan, size: int) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """Opacity and colour of every object, the farthest first, and what of the ground lies in shadow."""
    opacities, colours, light = [], [], torch.ones((), device=plan.centre.device)
    offset = torch.tensor(_SHADOW, device=plan.centre.device) * (size / SIZE)
    for index in range(MOST_OBJECTS):
        cutout, centre = _cutouts(plan, index, size)
        present = plan.present[:, index].float().view(-1, 1, 1, 1, 1)
        pose = plan.heading[:, index], plan.scale[:, index], size
        opacity, colour = cutout_mask(cutout, centre, *pose)
        shadow = shadow_mask(cutout, centre + offset, *pose, _SHADOW_SOFTNESS * size / SIZE)
        light = light * (1 - shadow * present)
        opacities.append(opacity * present), colours.append(colour)
    return opacities, colours, 1 - light


def make_frames(seeds: torch.Tensor, split: str = "train", frames: int = FRAMES, size: int = SIZE) -> torch.Tensor:
    """The frames alone of the clips with these seeds, `[n]`, on the seeds' device: `[n, frames, 3, size, size]`."""
    return draw_frames(make_plan(seeds, split, frames), split, size)


def draw_frames(plan: Plan, split: str, size: int = SIZE) -> torch.Tensor:
    """The frames of the planned clips in [0, 1], `[n, frames, 3, size, size]`."""
    opacities, colours, shadow = _layers(plan, size)
    return _scene(plan, _grounds(plan, split, size), opacities, colours, shadow)


def _scene(plan: Plan, ground: torch.Tensor, opacities: list, colours: list, shadow: torch.Tensor) -> torch.Tensor:
    """The ground with shadows, objects and posts on it."""
    scene = ground * (1 - _SHADOW_DEPTH * shadow)
    for opacity, colour in zip(opacities, colours, strict=True):
        scene = paste(scene, opacity, colour)
    return paste(scene, _posts(plan, scene.shape[-1]), plan.post_colour[:, None, :, None, None])


def make_clips(seeds: list[int], split: str = "train", frames: int = FRAMES, size: int = SIZE) -> list[Clip]:
    """The clips with these seeds.

    `seeds`: non-negative whole numbers; `split`: `train` or `test`; `frames`: at least 2; `size`: side in pixels.
    Raises ValueError for an unknown split, or fewer than two frames.
    """
    plan = make_plan(torch.tensor(seeds), split, frames)
    opacities, colours, shadow = _layers(plan, size)
    bare, post = _grounds(plan, split, size), _posts(plan, size)
    scenes = _scene(plan, bare, opacities, colours, shadow)
    ground = _scene(plan, bare, [], [], torch.zeros(()))
    covers, nearer = [], post
    without = [
        _scene(plan, bare, [torch.zeros_like(o) if k == index else o for k, o in enumerate(opacities)], colours, shadow)
        for index in range(MOST_OBJECTS)
    ]
    for opacity in reversed(opacities):
        covers.insert(0, nearer)
        nearer = 1 - (1 - nearer) * (1 - opacity)
    return [
        _clip(plan, i, scenes[i], ground[i], without, opacities, colours, covers, int(seed), split)
        for i, seed in enumerate(seeds)
    ]


def _clip(plan, i, frames, ground, without, opacities, colours, covers, seed, split) -> Clip:
    """Clip `i` of the planned ones with the truth about the objects that it has."""
    size, count = frames.shape[-1], int(plan.present[i].sum())
    taken_out, opacity, colour, hidden = (
        torch.stack([x[i] for x in each[:count]]) for each in (without, opacities, colours, covers)
    )
    area = opacity.flatten(2).sum(-1).clamp(min=1e-6)
    motion = Motion(
        (plan.centre[i, :count] + 0.5) * (size / SIZE) - 0.5,
        plan.heading[i, :count],
        plan.scale[i, :count],
        (opacity * (1 - hidden)).flatten(2).sum(-1) / area,
    )
    looks = Cutout(
        plan.shape[i, :count],
        plan.length[i, :count] * (size / SIZE),
        plan.head[i, :count],
        plan.tail[i, :count],
    )
    return Clip(frames, ground, taken_out, opacity, colour, hidden, looks, motion, seed, split)


def make_clip(seed: int, split: str = "train", frames: int = FRAMES, size: int = SIZE) -> Clip:
    """The clip with this seed; see `make_clips`."""
    return make_clips([seed], split, frames, size)[0]


def difficulty(clip: Clip) -> Difficulty:
    """How hard the clip is to guess from its first and last frame."""
    motion = clip.motion
    way = motion.centre.diff(dim=1).norm(dim=-1).sum(1) / clip.cutout.length
    turning = (motion.heading[:, -1] - motion.heading[:, 0]).abs()
    return Difficulty(float(way.max()), float(turning.max()), float(1 - motion.visibility[:, 1:-1].min()))
