"""Where in a video a clip can be cut: evenly spaced frames of one scene in which something moves."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .videos import Unusable, Video

CUT = 10.0
"""Score of FFmpeg's filter `scdet`, in percent, from which on two frames count as of two scenes; its own default."""
PIECE, LONG = 20.0, 120.0
"""A video of more than `LONG` seconds is looked at in pieces of `PIECE` seconds, as many as are needed."""
LONGEST_LOOK = 600.0
"""Seconds of a video that does not say how long it is."""
UNEVEN = 0.2
"""How far a frame may be from its place, as a part of the distance of two frames."""
STILL = 0.01
"""Mean difference to the first frame, of full brightness, below which nothing moves."""
SAME = 0.0005
"""That of two neighbours below which one repeats the other; compression adds a little of its own."""
REPEATS = 0.25
"""A clip in which more than this share of the frames repeat the one before is no film of its frame rate."""
# How much a reason says of a video: more than that a scene is short.
_LIKELY, _CERTAIN = 10.0**6, 10.0**7


@dataclass(frozen=True)
class ClipLength:
    """`frames` of a clip: every `stride`-th frame of its video, or evenly over `seconds`."""

    frames: int
    stride: int = 1
    seconds: float | None = None

    def interval(self, frame_time: float) -> float:
        """Seconds from one frame of the clip to the next, in a video with that time between its frames."""
        return self.stride * frame_time if self.seconds is None else self.seconds / (self.frames - 1)


def windows(video: Video, length: ClipLength) -> Iterator[tuple[float, ...]]:
    """The times of the frames of each clip, in seconds; those that come first lie farthest apart.

    No two overlap. The video is read as far as clips are asked for. Raises Unusable, at the end, where there is none.
    """
    reasons: dict[str, float] = {}
    found = False
    for start, stop in _pieces(video, length):
        times, small, whole = _look(video, start, stop)
        clips = list(_cut(times, small, whole, length, reasons)) if len(times) > 1 else []
        for index in spread(len(clips)):
            found = True
            yield clips[index]
    if not found:
        raise Unusable(max(reasons, key=reasons.__getitem__, default="holds not even two frames"))


def spread(count: int) -> list[int]:
    """0 … count − 1 in an order whose every beginning is spread over the whole (van der Corput's sequence)."""
    bits = max(1, (count - 1).bit_length())
    reversed_bits = (int(f"{number:0{bits}b}"[::-1], 2) for number in range(2**bits))
    # From the middle on: openings and endings are seldom typical.
    order = [(number + 2 ** (bits - 1)) % 2**bits for number in reversed_bits]
    return [index for index in order if index < count]


def cuts(small: np.ndarray) -> np.ndarray:
    """Whether a scene begins with each frame, `[n]`, by the score of FFmpeg's `scdet` on `[n, h, w, 3]` in 0…1.

    It is the smaller of two: the mean difference to the frame before, and how much that has changed. A camera that
    pans fast has the first without the second.
    """
    difference = np.zeros(len(small))
    difference[1:] = 100 * np.abs(np.diff(small, axis=0)).mean((1, 2, 3))
    # What was before the first frame is not known: the second one's change is that to the third.
    difference[:1] = difference[2:3]
    change = np.abs(np.diff(difference, prepend=difference[:1]))
    return np.minimum(difference, change) >= CUT


def _pieces(video: Video, length: ClipLength) -> Iterator[tuple[float, float]]:
    if video.duration is None or video.duration <= LONG:
        yield 0.0, LONGEST_LOOK if video.duration is None else LONG
        return
    # A piece must have room for a clip; its frames are taken for 24 a second until they are seen.
    piece = max(PIECE, 2 * (length.frames - 1) * length.interval(1 / 24))
    for index in spread(int(video.duration // piece)):
        yield index * piece, (index + 1) * piece


def _look(video: Video, start: float, stop: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times `[n]`, small pictures `[n, h, w, 3]`, and whether each frame follows the one before without damage."""
    seen = []
    for frame in video.frames(start):
        if frame.time >= stop:
            break
        if frame.time >= start:
            seen.append((frame.time, frame.small(), frame.whole))
    times, small, whole = (np.array([each[part] for each in seen]) for part in range(3))
    return times, small, whole


def _cut(
    times: np.ndarray, small: np.ndarray, whole: np.ndarray, length: ClipLength, reasons: dict[str, float]
) -> Iterator[tuple[float, ...]]:
    """The clips of a piece; `reasons` gets what stands in the way of others, with how much each says."""
    steps = np.diff(times)
    frame_time = float(np.median(steps))
    interval = length.interval(frame_time)
    if length.seconds is not None and interval < frame_time * (1 - UNEVEN):
        held = length.seconds / frame_time + 1
        reasons[f"has only {held:.0f} frames in {length.seconds:g} seconds, not {length.frames}"] = _CERTAIN
        return
    begins = cuts(small) | ~whole
    begins[1:] |= steps <= 0
    scenes = np.flatnonzero(begins)
    for scene in np.split(np.arange(len(times)), scenes[scenes > 0]):
        yield from _cut_scene(times[scene], small[scene], interval, length, reasons)


def _cut_scene(
    times: np.ndarray, small: np.ndarray, interval: float, length: ClipLength, reasons: dict[str, float]
) -> Iterator[tuple[float, ...]]:
    places, least = interval * np.arange(length.frames), (length.frames - 1 - UNEVEN) * interval
    if times[-1] - times[0] < least:
        held = int((times[-1] - times[0]) / interval + UNEVEN) + 1
        reasons[f"is too short: its longest scene has {held} frames, not {length.frames}"] = held
        return
    first = 0
    while first < len(times) and times[-1] - times[first] >= least:
        wanted = times[first] + places
        taken = np.abs(times[None] - wanted[:, None]).argmin(1)
        if (np.diff(taken) < 1).any() or (np.abs(times[taken] - wanted) > UNEVEN * interval).any():
            reasons["has a variable frame rate: nowhere are so many frames evenly spaced"] = _LIKELY
            first += 1
            continue
        reason = _without_motion(small[taken])
        if reason is None:
            yield tuple(times[taken].tolist())
        else:
            reasons[reason] = _CERTAIN
        first = int(taken[-1]) + 1


def _without_motion(small: np.ndarray) -> str | None:
    if np.abs(small - small[:1]).mean((1, 2, 3)).max() < STILL:
        return "stands still"
    if (np.abs(np.diff(small, axis=0)).mean((1, 2, 3)) < SAME).mean() > REPEATS:
        return "repeats its frames: it was filmed at a lower frame rate than the file has (try --stride)"
    return None
