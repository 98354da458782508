"""Time reversal, fusion weights and guidance scales, on plain tensors."""

import pytest
import torch
from generative_inbetweening.sampler.method import fusion
from generative_inbetweening.sampler.method.fusion import reverse_time

FRAMES = 7


@pytest.fixture(autouse=True)
def same_numbers():
    torch.manual_seed(0)


def test_reversing_twice_changes_nothing():
    frames = torch.randn(FRAMES, 4, 3, 3)
    assert torch.equal(reverse_time(reverse_time(frames)), frames)
    assert torch.equal(reverse_time(frames)[0], frames[-1])


@pytest.mark.parametrize("name", fusion.FUSIONS)
def test_fusion_treats_both_directions_alike(name):
    weights = fusion.fusion_weights(name, FRAMES)
    forward, backward = torch.randn(2, FRAMES, 4, 3, 3)
    fused = fusion.fuse(forward, backward, weights)
    assert torch.allclose(fusion.fuse(backward, forward, weights), reverse_time(fused), atol=1e-6)
    same = fusion.fuse(forward, reverse_time(forward), weights)
    assert torch.allclose(same, forward, atol=1e-6)


def test_an_unknown_fusion_is_no_average():
    with pytest.raises(KeyError):
        fusion.fusion_weights("mean", FRAMES)
    with pytest.raises(KeyError):
        fusion.guidance_scales("mean", FRAMES, 1.0, 3.0)


def test_weighted_fusion_trusts_each_direction_at_its_keyframe():
    weights = fusion.fusion_weights("weighted", 5).flatten()
    assert weights.tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert fusion.guidance_scales("weighted", 3, 1.0, 3.0).flatten().tolist() == [1, 2, 3]
    assert fusion.guidance_scales("average", 3, 1.0, 3.0).flatten().tolist() == [2, 2, 2]
