"""The correction around keyframes inside a clip, against the equation and against what it must keep."""

from functools import partial

import pytest
import torch
from generative_inbetweening.sampler.method.middle_keyframes import (
    correction_weights,
    falling_linearly,
    middle_keyframe_correction,
)

FRAMES, ENDS = 13, (0, 12)


def weights_of(positions, strengths, reach=4.0) -> torch.Tensor:
    return correction_weights(FRAMES, positions, strengths, ENDS, partial(falling_linearly, reach=reach))


@pytest.mark.parametrize("reach", [1.0, 3.0, 4.0, 20.0])
def test_keyframes_of_strength_1_are_met_and_the_ends_stay(reach):
    weights = weights_of((2, 3, 8), (1.0, 1.0, 1.0), reach)
    assert torch.allclose(weights[[2, 3, 8]], torch.eye(3, dtype=torch.float64))
    assert torch.allclose(weights[[0, 12]], torch.zeros(2, 3, dtype=torch.float64))


def test_one_keyframe_moves_its_frame_by_its_strength():
    for strength in (1e-3, 0.25, 0.7, 1.0):
        assert weights_of((6,), (strength,))[6, 0].item() == pytest.approx(strength)


def test_the_correction_falls_off_linearly():
    fall = torch.tensor([0, 0, 0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0, 0, 0], dtype=torch.float64)
    assert torch.allclose(weights_of((6,), (1.0,))[:, 0], fall)
    # As wide as the clip it is linear between the keyframes.
    wide = weights_of((4,), (1.0,), reach=100.0)[:, 0]
    assert torch.allclose(wide, torch.cat([torch.arange(5) / 4, torch.arange(7, -1, -1) / 8]).double())
    assert torch.equal(weights_of((6,), (1.0,), reach=1.0)[:, 0], (torch.arange(FRAMES) == 6).double())


@pytest.mark.parametrize("frames", [9, 17, 25])
def test_between_the_same_keyframes_more_frames_share_the_same_fall(frames):
    middle = frames // 2
    weights = correction_weights(frames, (middle,), (1.0,), (0, frames - 1))[:, 0]
    assert torch.allclose(weights[:: middle // 4], torch.tensor([0, 0, 1, 2, 3, 2, 1, 0, 0]).double() / 3)


def test_the_shortest_clip_moves_the_keyframes_frame_alone():
    assert correction_weights(3, (1,), (0.5,), (0, 2)).flatten().tolist() == pytest.approx([0, 0.5, 0])


def test_a_keyframe_of_nearly_no_strength_counts_nearly_nothing_anywhere():
    alone, beside = weights_of((6,), (1.0,))[:, 0], weights_of((6, 8), (1.0, 1e-9))
    assert torch.allclose(beside[:, 0], alone, atol=1e-8) and beside[:, 1].abs().max() < 1e-8


def test_every_frame_is_moved_by_its_share_of_each_difference():
    draw = torch.Generator().manual_seed(1)
    estimate, keyframes = (torch.randn(count, 4, 2, 3, generator=draw) for count in (FRAMES, 2))
    weights = weights_of((3, 7), (1.0, 0.5))
    corrected = middle_keyframe_correction(estimate, keyframes, (3, 7), weights)
    for frame in range(FRAMES):
        stated = estimate[frame] + sum(
            weights[frame, k] * (keyframes[k] - estimate[position]) for k, position in enumerate((3, 7))
        )
        assert torch.allclose(corrected[frame], stated.float(), atol=1e-6)
    assert torch.allclose(corrected[3], keyframes[0], atol=1e-6)


def test_half_precision_stays_and_meets_the_keyframe():
    draw = torch.Generator().manual_seed(1)
    estimate = torch.randn(FRAMES, 4, 2, 2, generator=draw).half() * 100
    keyframe = torch.randn(1, 4, 2, 2, generator=draw)
    corrected = middle_keyframe_correction(estimate, keyframe, (6,), weights_of((6,), (1.0,)))
    assert corrected.dtype == torch.float16
    assert torch.allclose(corrected[6].float(), keyframe[0], atol=1e-3)


def test_where_the_mask_keeps_the_latents_own_frame_no_keyframe_stands():
    estimate, keyframe = torch.zeros(FRAMES, 4, 2, 2), torch.ones(1, 4, 2, 2)
    mask = torch.ones(FRAMES, 4, 2, 2)
    mask[6, :, :, 0] = 0
    corrected = middle_keyframe_correction(estimate, keyframe, (6,), weights_of((6,), (1.0,)), mask)
    assert torch.equal(corrected[..., 0], torch.zeros(FRAMES, 4, 2)) and torch.all(corrected[5:8, ..., 1] > 0)
