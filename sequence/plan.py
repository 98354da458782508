"""What a sequence of keyframes consists of: its segments, their seeds, and which of their frames are shown.

A segment is the clip between two keyframes of strength 1, one after the other; those of less lie inside it. Neighbours
share a keyframe; the video shows it once, from the segment that ends there:

    frames of K keyframes with F frames a segment = (K − 1) · (F − 1) + 1,    as a loop K · (F − 1)

Subdivided, each pair of neighbouring frames is a pair of keyframes for a clip of F frames: F − 1 clips more, and
(F − 1)² + 1 frames; n times over, (F − 1)ⁿ⁺¹ + 1.
"""

from dataclasses import dataclass

from ..sampler.method.noise import stream_seed
from .keyframe_chain import LONGEST, KeyframeChain


@dataclass(frozen=True)
class Segment:
    """The clip from keyframe `first` to keyframe `last` (their indices), both among its `frames`.

    `middle`: the keyframes inside it, each with the number of its frame, counted from 0.
    """

    first: int
    last: int
    frames: int
    middle: tuple[tuple[int, int], ...] = ()


def plan_segments(chain: KeyframeChain, loop: bool) -> list[Segment]:
    """The segments of a sequence, in order; in a loop the last one leads back to the first keyframe.

    Raises ValueError, naming the input, when a segment with keyframes inside it has more than 1024 frames.
    """
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
    longest = max(segment.frames for segment in segments)
    if longest > LONGEST:
        raise ValueError(
            f"keyframes: expected at most {LONGEST} frames from one keyframe of strength 1 to the next, found "
            f"{longest}. Lower the {chain.frames_input.what}, or set the strength of more keyframes to 1."
        )
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


def video_frames(segments: list[Segment], subdivisions: int, seamless: bool) -> int:
    """Frames of the whole video, each keyframe once; `seamless`: a loop without its first frame again at its end."""
    return sum(subdivided_frames(segment.frames, subdivisions) - 1 for segment in segments) + (not seamless)
