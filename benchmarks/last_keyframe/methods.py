"""What the benchmark of the last keyframe alone compares, and the clips: those whose objects go straight."""

from collections.abc import Iterator
from functools import cache
from itertools import count, islice

import torch

from ...demo.world.world import make_plan
from ..common.clips import HeldOutClip, world_clip
from ..common.methods import CONTROLS, PEERS, Method

STRAIGHT = 0.3
"""Radians by which no object turns: along the true heading of one that turns, another course cannot be judged."""
_PLANNED_AT_ONCE = 256

METHODS = {
    "rotated": Method("backward direction, maps of a forward pass without a picture", {}, both=False),
    "own": Method("backward direction, its own maps", {"temporal_attention": "own"}, both=False),
    "played-backward": Method("plain SVD played backward", {"strategy": "time-reversal"}, None, both=False),
    "two-keyframes": Method("two keyframes"),
}
OTHERS = {"forward": f"{PEERS['forward']}, from the first frame", "truth": CONTROLS["truth"]}
"""What else the videos are compared with."""


@cache
def straight_seeds(first_seed: int, clips: int) -> list[int]:
    """The first `clips` seeds of the test split, from that one on, in whose clips all objects go straight."""
    return list(islice(_straight_seeds(first_seed), clips))


def _straight_seeds(first_seed: int) -> Iterator[int]:
    for start in count(first_seed, _PLANNED_AT_ONCE):
        seeds = torch.arange(start, start + _PLANNED_AT_ONCE)
        plan = make_plan(seeds, "test")
        turning = (plan.heading[..., -1] - plan.heading[..., 0]).abs()
        yield from seeds[((turning < STRAIGHT) | ~plan.present).all(1)].tolist()


def straight_clips(
    first_seed: int, clips: int, frames: int, size: int, share: slice = slice(None)
) -> Iterator[HeldOutClip]:
    """A share of the clips of those seeds."""
    return (world_clip(seed, frames, size) for seed in straight_seeds(first_seed, clips)[share])
