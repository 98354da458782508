"""The keyframes of a sequence: each with its picture, its distance to the next, and how closely the video keeps to it.

They come as a chain, from one *Keyframe* to the next, or as a batch of pictures, of which a chain is made.
"""

import logging
from dataclasses import dataclass, replace

import torch

from ..common.errors import quoted
from ..sampler.keyframes import MiddleKeyframe, one_picture

_SHORTEST = 2
# As Encode Keyframes.
LONGEST = 1024

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keyframe:
    """A picture `[1, height, width, 3]` in 0…1 and the `frames` from it to the next keyframe, both included.

    `strength` 1: a segment ends and the next one begins here. Below 1 it lies inside a longer segment, which is led to
    it so strongly; 0 leaves the picture out.
    """

    picture: torch.Tensor
    frames: int
    strength: float = 1.0


@dataclass(frozen=True)
class ClipKeyframes:
    """What one clip of `frames` goes through: pictures `[1, height, width, 3]` at its ends, and keyframes inside it."""

    first: torch.Tensor
    last: torch.Tensor
    frames: int
    middle: tuple[MiddleKeyframe, ...] = ()


@dataclass(frozen=True)
class FramesInput:
    """Where the user says how many frames there are: the input that an error names, and what it says to change."""

    name: str
    to_change: str


OF_CHAIN = FramesInput("keyframes", "the frames of the Keyframe nodes")
OF_BATCH = FramesInput("frames_per_segment", "frames_per_segment")


@dataclass(frozen=True)
class KeyframeChain:
    """Keyframes in their order: what the link INBETWEEN_KEYFRAMES carries."""

    keyframes: tuple[Keyframe, ...]
    frames_input: FramesInput = OF_CHAIN

    def __len__(self) -> int:
        return len(self.keyframes)

    def then(self, pictures: torch.Tensor, frames: int, strength: float) -> "KeyframeChain":
        """The chain with a further keyframe for each of `pictures`, `[count, height, width, channels]` in 0…1.

        Raises ValueError, naming the input `image`, for pictures that cannot be used.
        """
        new = (Keyframe(one_picture(picture, "image"), frames, strength) for picture in pictures.split(1))
        return replace(self, keyframes=(*self.keyframes, *new))


def sequence_keyframes(given: torch.Tensor | KeyframeChain, frames_per_segment: str, loop: bool) -> KeyframeChain:
    """The keyframes of a sequence, from a chain or a batch `[K, height, width, channels]` in 0…1.

    A batch's keyframes have strength 1 and the distances in `frames_per_segment`; a chain brings its own. In a loop a
    last keyframe that is the first again is left out. Raises ValueError, naming the input, for too few keyframes, for
    ends below strength 1, and for pictures or numbers that cannot be used.
    """
    chain = given
    if not isinstance(chain, KeyframeChain):
        pictures = (one_picture(picture, "keyframes") for picture in chain.split(1))
        chain = KeyframeChain(tuple(Keyframe(picture, _SHORTEST) for picture in pictures), OF_BATCH)
    if loop:
        chain = _without_repeated_end(chain)
    _check_count(chain, loop)
    if chain.frames_input is OF_BATCH:
        frames = parse_frames_per_segment(frames_per_segment, len(chain) if loop else len(chain) - 1)
        # Nothing follows the last keyframe where there is no loop: any number will do.
        numbered = zip(chain.keyframes, [*frames, _SHORTEST], strict=False)
        chain = replace(chain, keyframes=tuple(replace(keyframe, frames=count) for keyframe, count in numbered))
    _check_ends(chain, loop)
    return chain


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
    if max(frames) > LONGEST:
        raise ValueError(
            f"frames_per_segment: expected at most {LONGEST} frames, found "
            f"{quoted(max(frames))}. Lower it: 25 for SVD-XT, 14 for SVD."
        )
    return frames


def _without_repeated_end(chain: KeyframeChain) -> KeyframeChain:
    if len(chain) < 2:
        return chain
    first, last = chain.keyframes[0], chain.keyframes[-1]
    if last.strength < 1 or not torch.equal(first.picture, last.picture):
        return chain
    logger.info(
        "Keyframe sequence: the last keyframe of the loop is the first again and is left out; the loop "
        "leads back to the first by itself."
    )
    return replace(chain, keyframes=chain.keyframes[:-1])


def _check_count(chain: KeyframeChain, loop: bool) -> None:
    fewest = 1 if loop else 2
    if len(chain) < fewest:
        raise ValueError(
            f"keyframes: expected at least {'1 picture' if loop else '2 pictures'}, found {len(chain)}. Give each "
            f"picture a Keyframe node and chain these{'' if loop else ', or switch loop on'}."
        )


def _check_ends(chain: KeyframeChain, loop: bool) -> None:
    ends = [("first", "begins", 0)] if loop else [("first", "begins", 0), ("last", "ends", -1)]
    for which, does, index in ends:
        strength = chain.keyframes[index].strength
        if strength < 1:
            raise ValueError(
                f"keyframes: expected strength 1 of the {which} keyframe, at which the video {does}, found "
                f"{strength:g}. Set it to 1, or chain another Keyframe {'before' if index == 0 else 'after'} it."
            )
