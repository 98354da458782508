"""What the benchmark of the last keyframe alone compares, and the clips: those whose object truly slows down."""

from collections.abc import Iterator
from itertools import count, islice

from ..common.clips import HeldOutClip, world_clip
from ..common.methods import CONTROLS, PEERS, Method

_SPEEDING_UP = "fall"

METHODS = {
    "rotated": Method("backward direction, maps of a forward pass without a picture", {}, both=False),
    "own": Method("backward direction, its own maps", {"temporal_attention": "own"}, both=False),
    "played-backward": Method("plain SVD played backward", {"strategy": "time-reversal"}, None, both=False),
    "two-keyframes": Method("two keyframes"),
}
OTHERS = {"forward": f"{PEERS['forward']}, from the first frame", "truth": CONTROLS["truth"]}
"""What else the videos are compared with."""


def slowing_clips(
    first_seed: int, clips: int, frames: int, size: int, share: slice = slice(None)
) -> Iterator[HeldOutClip]:
    """A share of the first `clips` clips, from that seed on, in which nothing falls: what falls speeds up."""
    every = (world_clip(seed, frames, size) for seed in count(first_seed))
    slowing = (clip for clip in every if clip.world is not None and clip.world.kind != _SPEEDING_UP)
    return islice(islice(slowing, clips), share.start, share.stop, share.step)


def names_of_clips(first_seed: int, clips: int, frames: int, size: int) -> list[str]:
    """The names of those clips."""
    return [clip.name for clip in slowing_clips(first_seed, clips, frames, size)]
