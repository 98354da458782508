"""Input far from training is encoded, with one line on the console; ordinary input has none."""

import pytest
import torch
from helpers.pictures import WIDE, encoded_pictures
from helpers.small_model import encode, pictures


def lines(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize(("frames", "told"), [(2, True), (6, True), (8, False), (14, False), (25, False), (40, True)])
def test_frame_counts_far_from_training(models, caplog, frames, told):
    encode(models, frames)
    expected = (
        f"frames: {frames} frames are far from what the models were trained on, 14 (SVD) or 25 (SVD-XT). "
        "Expect a poorer video."
    )
    assert lines(caplog) == [expected] * told


@pytest.mark.parametrize(
    ("shape", "fit", "told"),
    [
        ((96, 128), "crop", False),
        ((64, 160), "crop", True),
        ((64, 80), "stretch", False),
        ((160, 64), "stretch", True),
        ((64, 160), "pad", False),
    ],
)
def test_aspects_far_from_the_videos(models, caplog, shape, fit, told):
    encoded_pictures(models, torch.rand(1, *shape, 3), pictures()[1], fit)
    assert [line.split(":")[0] for line in lines(caplog)] == ["first_keyframe"] * told


def test_equal_keyframes(models, caplog):
    encoded_pictures(models, WIDE, WIDE + 0.001, "pad")
    assert lines(caplog) == [
        "last_keyframe: both keyframes of a clip are the same picture, which says nothing of the motion between them."
    ]
