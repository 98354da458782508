"""Frames of a finished neighbour that guide a clip, so that the speed does not jump at the keyframe between them.

A clip of F frames guided by n frames of the one before is sampled over n + F frames: it begins n frames before their
common keyframe and is conditioned on the picture there. The first n + 1 frames are the neighbour's and are held while
the others are sampled (the host's noise mask: at each evaluation they are the neighbour's latents at that noise level,
as in Lugmayr et al., "RePaint", arXiv 2201.09865, section 4.1). The n frames before the keyframe are dropped at the
end. A clip that closes a loop is guided at its end, too, by the first n + 1 frames of the loop.
"""

from dataclasses import dataclass, replace

import torch

from .keyframe_chain import ClipKeyframes, FramesInput
from .plan import Segment


@dataclass(frozen=True)
class FinishedClip:
    """A clip's latents `[frames, 4, h, w]` from keyframe to keyframe, and the key by which it is known.

    A clip that guides others has the pictures `[1, height, width, 3]` that these begin or end at, too.
    """

    key: str
    latents: torch.Tensor
    picture_after_begin: torch.Tensor | None = None
    picture_before_end: torch.Tensor | None = None

    def with_guiding_pictures(self, decoded: torch.Tensor | None, count: int) -> "FinishedClip":
        """Itself with the pictures `count` frames after its first and before its last; `decoded`: all its frames."""
        if decoded is None or not count:
            return self
        # Copies: a slice would keep the whole decoded clip in memory.
        return replace(
            self, picture_after_begin=decoded[count:][:1].clone(), picture_before_end=decoded[-1 - count :][:1].clone()
        )


@dataclass(frozen=True)
class Guides:
    """The neighbours that guide a clip: `before` with its last, `after` with its first `count` + 1 frames."""

    count: int
    before: FinishedClip | None = None
    after: FinishedClip | None = None

    def __bool__(self) -> bool:
        return self.before is not None or self.after is not None

    @property
    def keys(self) -> list[int | str | None]:
        """What a guided clip depends on beside its own keyframes."""
        return [self.count, *(clip and clip.key for clip in (self.before, self.after))] if self else []

    def frames(self, frames: int) -> int:
        """Frames to sample for a clip of that many."""
        return frames + self.count * ((self.before is not None) + (self.after is not None))

    def around(self, clip: ClipKeyframes) -> ClipKeyframes:
        """What is sampled for a clip: it begins and ends at the neighbours' frames as seen in the video."""
        begin = self.before.picture_before_end if self.before else None
        end = self.after.picture_after_begin if self.after else None
        later = self.count if self.before is not None else 0
        return ClipKeyframes(
            clip.first if begin is None else begin,
            clip.last if end is None else end,
            self.frames(clip.frames),
            tuple(replace(keyframe, frame=keyframe.frame + later) for keyframe in clip.middle),
        )

    def held(self, empty: torch.Tensor) -> dict:
        """LATENT to sample from, its noise mask 0 in the held frames; `empty`: zeros, `[self.frames(F), 4, h, w]`."""
        if not self:
            return {"samples": empty}
        samples, mask = empty.clone(), torch.ones_like(empty[:, :1])
        if self.before is not None:
            samples[: self.count + 1] = self.before.latents[-self.count - 1 :]
            mask[: self.count + 1] = 0
        if self.after is not None:
            samples[-self.count - 1 :] = self.after.latents[: self.count + 1]
            mask[-self.count - 1 :] = 0
        return {"samples": samples, "noise_mask": mask}

    def without_extra(self, latents: torch.Tensor) -> torch.Tensor:
        """The clip itself, from keyframe to keyframe."""
        first = self.count if self.before is not None else 0
        last = self.count if self.after is not None else 0
        return latents[first : len(latents) - last]


def guides_of(index: int, finished: list[FinishedClip], segments: int, count: int, loop: bool) -> Guides:
    """What guides segment `index`, when all segments before it are finished; the first one has no guide."""
    before, after = _guided_sides(index, segments, loop)
    return Guides(count, finished[index - 1] if count and before else None, finished[0] if count and after else None)


def longest_clip(segments: list[Segment], count: int, loop: bool) -> int:
    """The most frames that any segment is sampled over."""
    return max(
        segment.frames + count * sum(_guided_sides(index, len(segments), loop))
        for index, segment in enumerate(segments)
    )


def check_guiding_frames(count: int, segments: list[Segment], frames_input: FramesInput) -> None:
    """Raises ValueError when a neighbour is too short to give so many frames."""
    shortest = min(segment.frames for segment in segments)
    if len(segments) > 1 and count > shortest - 1:
        raise ValueError(
            f"guiding_frames: expected at most {shortest - 1}, one less than the shortest segment's "
            f"{shortest} frames, found {count}. Lower it, or raise {frames_input.what}."
        )


def _guided_sides(index: int, segments: int, loop: bool) -> tuple[bool, bool]:
    """Whether segment `index` has a finished neighbour before it, and, closing a loop, after it."""
    return index > 0, loop and 0 < index == segments - 1
