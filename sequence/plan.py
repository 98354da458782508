"""What a sequence of keyframes consists of: its segments, their seeds, and which of their frames are shown.

A segment is the clip between two keyframes of strength 1, one after the other; those of less lie inside it. Neighbours
share a keyframe; the video shows it once, from the segment that ends there:

    frames of K keyframes with F frames a segment = (K − 1) · (F − 1) + 1,    as a loop K · (F − 1)

Subdivided, each pair of neighbouring frames is a pair of keyframes for a clip of F frames: F − 1 clips more, and
(F − 1)² + 1 frames; n times over, (F − 1)ⁿ⁺¹ + 1.
"""

from dataclasses import dataclass

from ..sampler.keyframes import MiddleKeyframe
from ..sampler.method.noise import stream_seed
from .keyframe_chain import LONGEST, ClipKeyframes, FramesInput, KeyframeChain


@dataclass(frozen=True)
class Segment:
    """The clip from keyframe `first` to keyframe `last` (their indices), both among its `frames`.

    `middle`: the keyframes inside it, each with the number of its frame, counted from 0.
    """

    first: int
    last: int
    frames: int
    middle: tuple[tuple[int, int], ...] = ()

    def keyframes(self, chain: KeyframeChain) -> ClipKeyframes:
        """Its pictures."""
        inside = (
            MiddleKeyframe(chain.keyframes[index].picture, frame, chain.keyframes[index].strength)
            for index, frame in self.middle
        )
        first, last = (chain.keyframes[index].picture for index in (self.first, self.last))
        return ClipKeyframes(first, last, self.frames, tuple(inside))


@dataclass(frozen=True)
class Plan:
    """The segments of a sequence, in order; `subdivisions`: how often each pair of neighbouring frames is divided.

    In a loop the last segment leads back to the first keyframe; closed, the video shows its first frame there again.
    """

    segments: list[Segment]
    frames_input: FramesInput
    loop: bool = False
    close_loop: bool = False
    subdivisions: int = 0

    @property
    def frames(self) -> int:
        """Frames of the whole video, each keyframe once."""
        steps = sum(subdivided_frames(segment.frames, self.subdivisions) - 1 for segment in self.segments)
        return steps if self.loop and not self.close_loop else steps + 1

    @property
    def clips(self) -> int:
        """Clips to sample in all."""
        return sum(clips_to_sample(segment.frames, self.subdivisions) for segment in self.segments)


def plan_sequence(chain: KeyframeChain, loop: bool, close_loop: bool = False, subdivisions: int = 0) -> Plan:
    """The plan of a sequence.

    Raises ValueError, naming the input, when `close_loop` has no loop, a segment with keyframes inside it has more than
    1024 frames, or one that is to be divided has nothing between its keyframes.
    """
    if close_loop and not loop:
        raise ValueError(
            "close_loop: expected loop to be on, found it off: without it the video ends with the last keyframe. "
            "Switch loop on, or close_loop off."
        )
    segments, source = _segments(chain, loop), chain.frames_input
    longest, shortest = (extreme(segment.frames for segment in segments) for extreme in (max, min))
    if longest > LONGEST:
        raise ValueError(
            f"keyframes: expected at most {LONGEST} frames from one keyframe of strength 1 to the next, found "
            f"{longest}. Lower {source.to_change}, or set the strength of more keyframes to 1."
        )
    if subdivisions and shortest < 3:
        raise ValueError(
            f"{source.name}: expected at least 3 frames with subdivisions, found 2, which has nothing between its "
            f"keyframes. Raise {source.to_change}, or set subdivisions to 0."
        )
    return Plan(segments, source, loop, close_loop, subdivisions)


def _segments(chain: KeyframeChain, loop: bool) -> list[Segment]:
    keyframes, segments = chain.keyframes, []
    first, middle, frame = 0, [], 0
    for index in range(len(keyframes) if loop else len(keyframes) - 1):
        frame += keyframes[index].frames - 1
        following = (index + 1) % len(keyframes)
        # The loop's last segment ends at the first keyframe.
        if following == 0 or keyframes[following].strength == 1:
            segments.append(Segment(first, following, frame + 1, tuple(middle)))
            first, middle, frame = following, [], 0
        elif keyframes[following].strength > 0:
            middle.append((following, frame))
    return segments


def clip_seed(seed: int, path: tuple[int, ...]) -> int:
    """The seed, 0…2⁶⁴ − 1, of one clip: `path` is its segment's index and, subdivided, its place in each pass.

    The first segment has the sequence's own seed, so a sequence of two keyframes is the Dual-Direction KSampler's
    video. The others are seeds of streams: clips whose seeds meet would have the same noise.
    """
    return seed if path == (0,) else stream_seed(seed, "clip", *path)


def subdivided_frames(frames: int, subdivisions: int) -> int:
    """Frames of one segment after all passes."""
    return (frames - 1) ** (subdivisions + 1) + 1


def clips_to_sample(frames: int, subdivisions: int) -> int:
    """Clips that one segment takes: 1 + (F − 1) + (F − 1)² + …"""
    return sum((frames - 1) ** level for level in range(subdivisions + 1))
