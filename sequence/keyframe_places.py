"""Where the keyframes of a finished video stand, and their pictures, fitted to it."""

from collections.abc import Iterable

import torch

from ..sampler.keyframes import FITS, MiddleKeyframe, fit_picture, one_picture
from ..sampler.settings import check_choice
from ..sampler.unusual_input import remark_on_aspect
from .keyframe_chain import KeyframeChain, sequence_keyframes
from .plan import Plan, plan_sequence


def pictures_in_video(
    images: torch.Tensor,
    fit: str,
    *,
    first: torch.Tensor | None = None,
    last: torch.Tensor | None = None,
    middle: Iterable[MiddleKeyframe] = (),
    keyframes: torch.Tensor | KeyframeChain | None = None,
    frames_per_segment: str = "",
) -> tuple[dict[int, torch.Tensor], bool]:
    """({frame: its picture, fitted}, whether the video is a loop whose first frame follows its last).

    `images`: the video, `[frames, height, width, channels]`; `first` and `last`: the pictures of its ends, which come
    before those of `keyframes`; `keyframes`: those of a sequence, a chain or `[K, h, w, channels]`. Keyframes of
    strength below 1 are left out: the video need not show them. Raises ValueError, naming the input, for pictures or
    numbers that cannot be used or do not fit the video, and for no picture at all.
    """
    check_choice("fit", fit, FITS)
    found, loop = {}, False
    if keyframes is not None:
        pictures, loop = sequence_pictures(keyframes, frames_per_segment, len(images))
        found = {place: (picture, "keyframes") for place, picture in pictures.items()}
    for keyframe in middle:
        if keyframe.frame >= len(images) - 1:
            raise ValueError(
                f"middle_keyframes: expected frames from 1 to {len(images) - 2}, as the video has {len(images)}, found "
                f"{keyframe.frame}. Connect those of Encode Keyframes."
            )
        if keyframe.strength == 1:
            found[keyframe.frame] = (keyframe.picture, "middle_keyframes")
    for picture, place, name in ((first, 0, "first_keyframe"), (last, len(images) - 1, "last_keyframe")):
        if picture is not None:
            found[place] = (picture, name)
    if not found:
        raise ValueError(
            "first_keyframe: expected a picture here, at last_keyframe, keyframes or middle_keyframes, found none. "
            "Connect those that the video was made from."
        )
    height, width = images.shape[1:3]
    return {place: _fitted(*each, width, height, fit) for place, each in found.items()}, loop


def sequence_pictures(
    keyframes: torch.Tensor | KeyframeChain, frames_per_segment: str, frames: int
) -> tuple[dict[int, torch.Tensor], bool]:
    """({frame: picture of the keyframe there}, whether the video is a loop whose first frame follows its last).

    The number of frames tells whether the sequence ends with its last keyframe, leads back to the first, or shows that
    once more. Raises ValueError, naming the input, for a video of none of these lengths and for keyframes or numbers
    that cannot be used.
    """
    lengths, errors = set(), []
    for loop, close_loop in ((False, False), (True, False), (True, True)):
        try:
            chain = sequence_keyframes(keyframes, frames_per_segment, loop)
            plan = plan_sequence(chain, loop, close_loop)
        except ValueError as error:
            errors.append(error)
            continue
        if frames == plan.frames:
            return _shown(chain, plan), loop and not close_loop
        lengths.add(plan.frames)
    if not lengths:
        raise errors[0]
    expected = " or ".join(str(length) for length in sorted(lengths))
    raise ValueError(
        f"images: expected the frames of a sequence through these keyframes, {expected}, found {frames}. Connect all "
        "frames of the sequence, with its keyframes and frames_per_segment."
    )


def _shown(chain: KeyframeChain, plan: Plan) -> dict[int, torch.Tensor]:
    pictures, place = {}, 0
    for segment in plan.segments:
        pictures[place] = chain.keyframes[segment.first].picture
        place += segment.frames - 1
    if place < plan.frames:
        pictures[place] = chain.keyframes[plan.segments[-1].last].picture
    return pictures


def _fitted(picture: torch.Tensor, name: str, width: int, height: int, fit: str) -> torch.Tensor:
    picture = one_picture(picture, name)
    remark_on_aspect(picture, width, height, fit, name)
    return fit_picture(picture, width, height, fit)
