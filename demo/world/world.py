"""A small procedural world with known truth, an arrow of time and more than one future for each picture.

Cut-outs with a head and a tail fly head first over backgrounds made of photographs and slow down; the first frame
does not tell how fast. Read backward, a clip shows things that speed up tail first, which the world never does. A
minority of the clips falls, turns, approaches, passes behind a post, has a second object, or pans its background.

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

from .render import SHAPES, Cutout, cutout_mask, pan_and_zoom, paste

PHOTOGRAPHS = {
    "train": ("astronaut", "coffee", "hubble_deep_field", "retina", "camera", "grass", "gravel", "brick"),
    "test": ("chelsea", "rocket", "clock"),
}
MOTIONS = {"fly": 0.76, "fall": 0.06, "turn": 0.08, "approach": 0.05, "behind a post": 0.05}
SLOWING = 0.8
"""Factor on the speed from one frame to the next."""
TRAVEL = (8.0, 30.0)
"""Range of the way from the first to the last frame, in pixels at 64x64."""
SECOND_OBJECT, PANNING = 0.06, 0.15
"""Shares of the clips that have a second object, and whose background pans."""
_BASE = 64
_MARGIN = 9.0


@dataclass(frozen=True)
class Motion:
    """Where the objects of one clip are; object 0 is the main one.

    `centre` pixels `[objects, frames, 2]`; `heading` radians `[objects, frames]`; `scale` factor on the
    length `[objects, frames]`; `visibility` share of the object not hidden, in [0, 1], `[objects, frames]`.
    """

    centre: torch.Tensor
    heading: torch.Tensor
    scale: torch.Tensor
    visibility: torch.Tensor


@dataclass(frozen=True)
class Clip:
    """One clip with its truth.

    `frames` in [0, 1], `[frames, 3, size, size]`; `background` the same without objects (posts included);
    `opacity` and `colour` of the main object in each frame, `[frames, 1 or 3, size, size]`; `post`: opacity of
    what stands in front, `[frames, 1, size, size]`; `kind` one of `MOTIONS`.
    """

    frames: torch.Tensor
    background: torch.Tensor
    opacity: torch.Tensor
    colour: torch.Tensor
    post: torch.Tensor
    cutout: Cutout
    motion: Motion
    kind: str
    seed: int
    split: str


@cache
def _photographs(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The split's photographs as they are and smoothed, `[n, 3, 160, 160]` in [0, 1]."""
    folder = Path(__file__).parents[1] / "photographs"
    pictures = [np.asarray(Image.open(folder / f"{name}.png").convert("RGB")) for name in PHOTOGRAPHS[split]]
    sharp = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    sigma, reach = 9.0, 27
    kernel = torch.exp(-torch.arange(-reach, reach + 1.0).square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1).expand(3, 1, 1, -1)
    smooth = F.pad(sharp, (reach,) * 4, mode="reflect")
    smooth = F.conv2d(F.conv2d(smooth, kernel, groups=3), kernel.transpose(2, 3), groups=3)
    return sharp, smooth


def _progress(frames: int) -> np.ndarray:
    """Share of the way covered at each frame, from 0 to 1, for a thing that slows down by `SLOWING`."""
    # The whole clip lasts as long as eight frames whatever the frame count, so that the speeds stay comparable.
    time = np.arange(frames) * 7 / (frames - 1)
    return (1 - SLOWING**time) / (1 - SLOWING**7)


def _path(rng: np.random.Generator, kind: str, frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre relative to the first frame `[frames, 2]`, heading and scale `[frames]`, at 64x64."""
    heading = rng.uniform(0, 2 * math.pi)
    travel, progress = rng.uniform(*TRAVEL), _progress(frames)
    scale = np.ones(frames)
    if kind == "fall":
        sideways = rng.uniform(4, 12) * rng.choice((-1, 1))
        time = np.linspace(0, 1, frames)
        centre = np.stack((sideways * time, travel * time**2 + 2 * time), 1)
        heading = np.arctan2(2 * travel * time + 2, np.full(frames, sideways))
    elif kind == "turn":
        turn = rng.uniform(0.5, 1.4) * rng.choice((-1, 1))
        headings = heading + turn * progress
        middle = heading + turn * (progress[1:] + progress[:-1]) / 2
        steps = np.diff(progress)[:, None] * travel * np.stack((np.cos(middle), np.sin(middle)), 1)
        centre, heading = np.concatenate((np.zeros((1, 2)), np.cumsum(steps, 0))), headings
    else:
        centre = travel * progress[:, None] * np.array([[math.cos(heading), math.sin(heading)]])
        if kind == "approach":
            scale = 1 + rng.uniform(0.3, 0.6) * progress
    return centre, np.broadcast_to(heading, frames).copy(), scale


def _place(rng: np.random.Generator, centre: np.ndarray) -> np.ndarray:
    """Moves a path to a random place where it stays in the picture (or as nearly as it can)."""
    low, high = _MARGIN - centre.min(0), _BASE - 1 - _MARGIN - centre.max(0)
    return centre + np.where(low <= high, rng.uniform(size=2) * (high - low) + low, (low + high) / 2)


def _colour(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> np.ndarray:
    """A random colour, `[3]`, by hue, saturation and value."""
    hue, s, v = rng.uniform(0, 6), rng.uniform(*saturation), rng.uniform(*value)
    return v * (1 - s * np.clip(np.array([min(abs(hue - c) % 6, 6 - abs(hue - c) % 6) - 1 for c in (0, 2, 4)]), 0, 1))


def _draw(seed: int, split: str, frames: int) -> dict:
    """All random choices of one clip."""
    rng = np.random.default_rng([list(PHOTOGRAPHS).index(split), seed])
    kind = str(rng.choice(list(MOTIONS), p=list(MOTIONS.values())))
    progress, photographs = _progress(frames), len(PHOTOGRAPHS[split])
    pans = rng.uniform() < PANNING
    pan = rng.uniform(2, 6) * pans
    direction = rng.uniform(0, 2 * math.pi)
    choice = {
        "kind": kind,
        "photograph": rng.integers(photographs),
        "corner": rng.uniform(size=2),
        "window": rng.uniform(0.55, 1.0),
        "mirror": rng.uniform() < 0.5,
        "base": rng.uniform(0.40, 0.46) + rng.uniform(-0.02, 0.02, 3),
        "contrast": rng.uniform(0.06, 0.11),
        "order": rng.permutation(3),
        "shift": pan * progress[:, None] * np.array([[math.cos(direction), math.sin(direction)]]),
        "zoom": 1 + rng.uniform(0, 0.06) * progress * pans,
        "second": rng.uniform() < SECOND_OBJECT,
        "post": (rng.uniform(24, 40), rng.uniform(3.5, 5.5), _colour(rng, (0, 0.3), (0.1, 0.3)), rng.uniform() < 0.5),
        "objects": [],
    }
    for index in range(2):
        centre, heading, scale = _path(rng, kind if index == 0 else "fly", frames)
        choice["objects"].append(
            {
                "centre": _place(rng, centre),
                "heading": heading,
                "scale": scale,
                "shape": rng.integers(len(SHAPES)),
                "length": rng.uniform(18, 22),
                "head": _colour(rng, (0, 0.2), (0.9, 1.0)),
                "tail": _colour(rng, (0.8, 1.0), (0.55, 1.0)),
                "texture": rng.integers(photographs),
                "corner": rng.uniform(size=2),
            }
        )
    if kind == "behind a post":
        _put_post_on_the_way(choice)
    return choice


def _put_post_on_the_way(choice: dict) -> None:
    _, half_width, colour, _ = choice["post"]
    centre = choice["objects"][0]["centre"]
    upright = bool(abs(centre[-1, 0] - centre[0, 0]) > abs(centre[-1, 1] - centre[0, 1]))
    middle = centre[:, 0 if upright else 1]
    choice["post"] = (float(middle[0] * 0.35 + middle[-1] * 0.65), half_width, colour, upright)


def _backgrounds(choices: list[dict], split: str, size: int) -> torch.Tensor:
    """Recoloured, smooth windows of the photographs with a border to pan over, `[n, frames, 3, size, size]`."""
    smooth = _photographs(split)[1]
    reach = int(size * 1.3)
    pictures = []
    for c in choices:
        side = int(smooth.shape[-1] * c["window"])
        y, x = ((smooth.shape[-1] - side) * c["corner"]).astype(int)
        crop = smooth[c["photograph"], c["order"], y : y + side, x : x + side]
        crop = F.interpolate(crop[None], (reach, reach), mode="bilinear", align_corners=True)[0]
        crop = crop.flip(-1) if c["mirror"] else crop
        crop = crop - crop.mean((1, 2), keepdim=True)
        crop = crop * (c["contrast"] / crop.std().clamp(min=0.02))
        pictures.append(torch.from_numpy(c["base"]).float().view(3, 1, 1) + crop)
    shift = torch.from_numpy(np.stack([c["shift"] for c in choices])).float() * (size / _BASE)
    zoom = torch.from_numpy(np.stack([c["zoom"] for c in choices])).float()
    return pan_and_zoom(torch.stack(pictures).clamp(0.05, 0.95), shift, zoom, size)


def _cutouts(choices: list[dict], index: int, split: str, size: int) -> tuple[Cutout, Motion]:
    """Object `index` of every clip, batched over the clips; `visibility` is filled in later."""
    sharp, objects, side = _photographs(split)[0], [c["objects"][index] for c in choices], 24
    textures = []
    for o in objects:
        y, x = ((sharp.shape[-1] - side) * o["corner"]).astype(int)
        patch = sharp[o["texture"], :, y : y + side, x : x + side]
        patch = F.avg_pool2d(patch[None], 4)[0]
        textures.append((patch - patch.mean((1, 2), keepdim=True)).clamp(-0.2, 0.2) * 0.8)

    def stack(key: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([o[key] for o in objects]))

    cutout = Cutout(
        stack("shape"),
        stack("length").float() * (size / _BASE),
        stack("head").float(),
        stack("tail").float(),
        torch.stack(textures),
    )
    centre = (stack("centre").float() + 0.5) * (size / _BASE) - 0.5
    return cutout, Motion(centre, stack("heading").float(), stack("scale").float(), torch.empty(0))


def _posts(choices: list[dict], size: int) -> torch.Tensor:
    """Opacity of the posts, `[n, frames, 1, size, size]`; a post is nearer, so it pans half as much again."""
    axis = (torch.arange(size).float() + 0.5) * (_BASE / size) - 0.5
    masks = []
    for c in choices:
        if c["kind"] != "behind a post":
            masks.append(torch.zeros(len(c["zoom"]), 1, size, size))
            continue
        place, half_width, _, upright = c["post"]
        moved = torch.from_numpy(c["shift"][:, 0 if upright else 1]).float() * 1.5 + place
        band = (0.5 + half_width - (axis - moved[:, None]).abs()).clamp(0, 1)
        masks.append((band[:, None, None, :] if upright else band[:, None, :, None]).expand(-1, 1, size, size))
    return torch.stack(masks)


def make_clips(seeds: list[int], split: str = "train", frames: int = 8, size: int = 64) -> list[Clip]:
    """The clips with these seeds.

    `seeds`: non-negative whole numbers; `split`: `train` or `test`; `frames`: at least 2; `size`: side in pixels.
    Raises ValueError for an unknown split, or fewer than two frames.
    """
    if split not in PHOTOGRAPHS:
        raise ValueError(f"split: expected one of {', '.join(PHOTOGRAPHS)}, found {split!r}.")
    if frames < 2:
        raise ValueError(f"frames: expected at least 2, found {frames}.")
    choices = [_draw(int(seed), split, frames) for seed in seeds]
    ground, post = _backgrounds(choices, split, size), _posts(choices, size)
    post_colour = torch.from_numpy(np.stack([c["post"][2] for c in choices])).float()[:, None, :, None, None]
    second = torch.tensor([float(c["second"]) for c in choices]).view(-1, 1, 1, 1, 1)
    cutouts, motions, opacities, colours = [], [], [], []
    for index in range(2):
        cutout, motion = _cutouts(choices, index, split, size)
        opacity, colour = cutout_mask(cutout, motion.centre, motion.heading, motion.scale, size)
        cutouts.append(cutout), motions.append(motion), colours.append(colour)
        opacities.append(opacity if index == 0 else opacity * second)
    scene = paste(paste(ground, opacities[1], colours[1]), opacities[0], colours[0])
    scene, empty = paste(scene, post, post_colour), paste(ground, post, post_colour)
    hidden = [post, 1 - (1 - post) * (1 - opacities[0])]
    areas = [opacity.flatten(2).sum(-1).clamp(min=1e-6) for opacity in opacities]
    seen = [(o * (1 - h)).flatten(2).sum(-1) / a for o, h, a in zip(opacities, hidden, areas, strict=True)]
    clips = []
    for i, (seed, choice) in enumerate(zip(seeds, choices, strict=True)):
        count = 2 if choice["second"] else 1
        motion = Motion(
            *(torch.stack([getattr(m, name)[i] for m in motions[:count]]) for name in ("centre", "heading", "scale")),
            torch.stack([s[i] for s in seen[:count]]),
        )
        main = cutouts[0]
        cutout = Cutout(
            main.shape[i : i + 1],
            main.length[i : i + 1],
            main.head[i : i + 1],
            main.tail[i : i + 1],
            main.texture[i : i + 1],
        )
        clips.append(
            Clip(
                scene[i],
                empty[i],
                opacities[0][i] * (1 - post[i]),
                colours[0][i],
                post[i],
                cutout,
                motion,
                choice["kind"],
                int(seed),
                split,
            )
        )
    return clips


def make_clip(seed: int, split: str = "train", frames: int = 8, size: int = 64) -> Clip:
    """The clip with this seed; see `make_clips`."""
    return make_clips([seed], split, frames, size)[0]
