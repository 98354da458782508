"""Remarks on input that can be sampled but is far from what Stable Video Diffusion was trained on."""

import torch

from ..common.remarks import remark

_FEWEST, _MOST = 8, 30
# By how much the aspects may differ before the picture suffers visibly; a photo's 4 : 3 in 16 : 9 is 1.33.
_ASPECTS = {"crop": 1.5, "stretch": 1.25}
# A step of 8-bit colour: what saving and resizing change.
_SAME = 1 / 255


def remark_on_frames(frames: int, name: str) -> None:
    """Says when a clip is much shorter or longer than those of training (SVD 14 frames, SVD-XT 25)."""
    if not _FEWEST <= frames <= _MOST:
        remark(
            f"{name}: {frames} frames are far from what the models were trained on, 14 (SVD) or 25 (SVD-XT). Expect "
            "a poorer video."
        )


def remark_on_aspect(picture: torch.Tensor, width: int, height: int, fit: str, name: str) -> None:
    """Says when cutting or distorting a picture `[1, h, w, channels]` to the video's aspect takes much of it."""
    ratio = (picture.shape[2] * height) / (picture.shape[1] * width)
    if max(ratio, 1 / ratio) > _ASPECTS.get(fit, float("inf")):
        what = (
            f"{1 - min(ratio, 1 / ratio):.0%} of it is cut off"
            if fit == "crop"
            else f"it is distorted by {max(ratio, 1 / ratio):.2g} times"
        )
        remark(
            f"{name}: {picture.shape[2]}×{picture.shape[1]} has another aspect than the video's {width}×{height}: "
            f"{what}. Change width and height, or fit."
        )


def remark_on_equal(first: torch.Tensor, last: torch.Tensor, name: str) -> None:
    """Says when two keyframes, each `[1, h, w, channels]` in 0…1, are the same picture."""
    if first.shape == last.shape and float((first.float() - last.to(first.device).float()).abs().mean()) < _SAME:
        remark(f"{name}: both keyframes of a clip are the same picture, which says nothing of the motion between them.")


def remark_on_keyframes(
    first: torch.Tensor | None, last: torch.Tensor | None, width: int, height: int, frames: int, fit: str
) -> None:
    """The remarks on what Encode Keyframes was given."""
    remark_on_frames(frames, "frames")
    for picture, name in ((first, "first_keyframe"), (last, "last_keyframe")):
        if picture is not None:
            remark_on_aspect(picture, width, height, fit, name)
    if first is not None and last is not None:
        remark_on_equal(first, last, "last_keyframe")
