"""What a sequence of keyframes consists of: its segments, their seeds, and which of their frames are shown.

A segment is the clip between two neighbouring keyframes. Neighbours share a keyframe; the video shows it once, from the
segment that ends there:

    frames of K keyframes with F frames a segment = (K − 1) · (F − 1) + 1,    as a loop K · (F − 1)

Subdivided, each pair of neighbouring frames is a pair of keyframes for a clip of F frames: F − 1 clips more, and
(F − 1)² + 1 frames; n times over, (F − 1)ⁿ⁺¹ + 1.
"""

from dataclasses import dataclass

from ..common.errors import quoted
from ..sampler.method.noise import stream_seed

_SHORTEST = 2
# As Encode Keyframes.
_LONGEST = 1024


@dataclass(frozen=True)
class Segment:
    """The clip from keyframe `first` to keyframe `last` (their indices), both among its `frames`."""

    first: int
    last: int
    frames: int


def plan_segments(keyframes: int, frames_per_segment: str, loop: bool) -> list[Segment]:
    """The segments of a sequence, in order; in a loop the last one leads back to the first keyframe.

    Raises ValueError, naming the input, when there are too few keyframes or the numbers of frames cannot be used.
    """
    if keyframes < 2 and not loop:
        raise ValueError(
            f"keyframes: expected at least 2 pictures, found {keyframes}. Join your pictures to one batch "
            "with ImageBatch, or switch loop on."
        )
    segments = keyframes if loop else keyframes - 1
    frames = parse_frames_per_segment(frames_per_segment, segments)
    return [Segment(index, (index + 1) % keyframes, count) for index, count in enumerate(frames)]


def parse_frames_per_segment(text: str, segments: int) -> list[int]:
    """`"8"` → 8 for every segment; `"8, 14, 8"` → one for each.

    Raises ValueError, naming the input, for anything else, another count than `segments`, or a number
    below 2 or above 1024.
    """
    try:
        frames = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(
            f"frames_per_segment: expected one number, such as 25, or one for each segment, such as "
            f"8, 14, 8, found {quoted(text)}. Write numbers with commas between them."
        ) from error
    if len(frames) == 1:
        frames *= segments
    if len(frames) != segments:
        raise ValueError(
            f"frames_per_segment: expected one number or {segments}, one for each segment, found "
            f"{len(frames)}: {quoted(text)}. Write one number for all segments, or one for each."
        )
    if min(frames) < _SHORTEST:
        raise ValueError(
            f"frames_per_segment: expected at least {_SHORTEST} frames, the two keyframes, found "
            f"{quoted(min(frames))}. Raise it."
        )
    if max(frames) > _LONGEST:
        raise ValueError(
            f"frames_per_segment: expected at most {_LONGEST} frames, found "
            f"{quoted(max(frames))}. Lower it: 25 for SVD-XT, 14 for SVD."
        )
    return frames


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


def video_frames(segments: list[Segment], subdivisions: int, loop: bool) -> int:
    """Frames of the whole video, each keyframe once."""
    return sum(subdivided_frames(segment.frames, subdivisions) - 1 for segment in segments) + (not loop)
