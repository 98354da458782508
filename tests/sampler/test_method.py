"""The mathematics, on plain tensors, against its plain statement in the paper."""

from types import SimpleNamespace

import pytest
import torch
from generative_inbetweening.sampler import keyframes
from generative_inbetweening.sampler.method import fusion, reinjection
from generative_inbetweening.sampler.method.attention import (
    BackwardProjections,
    ForwardMapMissing,
    UNetCall,
    VideoInBatch,
    compute_map,
    dual_direction_attention,
    single_token_attention,
)
from generative_inbetweening.sampler.method.fusion import reverse_time
from generative_inbetweening.sampler.method.reinjection import seeded_noise, stream_seed
from generative_inbetweening.sampler.progress import EvaluationProgress
from torch import nn

HEADS, POSITIONS, FRAMES, CHANNELS = 2, 5, 7, 16


@pytest.fixture(autouse=True)
def same_numbers():
    torch.manual_seed(0)


def projections(context_channels: int = CHANNELS):
    return SimpleNamespace(
        to_q=nn.Linear(CHANNELS, CHANNELS, bias=False),
        to_k=nn.Linear(context_channels, CHANNELS, bias=False),
        to_v=nn.Linear(context_channels, CHANNELS, bias=False),
        to_out=nn.Linear(CHANNELS, CHANNELS),
        heads=HEADS,
    )


def split_heads(tokens):
    return tokens.reshape(tokens.shape[0], tokens.shape[1], HEADS, -1).transpose(1, 2)


def attend(q, k, v):
    out = nn.functional.scaled_dot_product_attention(*(split_heads(tokens) for tokens in (q, k, v)))
    return out.transpose(1, 2).reshape(v.shape)


def as_in_the_paper(forward, backward, layer, difference, strength):
    """Both outputs with the map as a tensor, rotated by 180° and multiplied."""
    q, k = split_heads(layer.to_q(forward)), split_heads(layer.to_k(forward))
    attention_map = (q @ k.transpose(-1, -2) / (CHANNELS / HEADS) ** 0.5).softmax(-1)
    rotated = torch.rot90(attention_map, 2, (-2, -1))

    def output(probabilities, v):
        return (probabilities @ split_heads(v)).transpose(1, 2).reshape(v.shape)

    tuned_v = nn.functional.linear(backward, layer.to_v.weight + strength * difference.to_v.weight)
    tuned_out = layer.to_out.weight + strength * difference.to_out.weight
    return (
        layer.to_out(output(attention_map, layer.to_v(forward))),
        nn.functional.linear(output(rotated, tuned_v), tuned_out, layer.to_out.bias),
    )


@torch.no_grad()
def test_sharing_q_and_k_is_rotating_the_map():
    layer = projections()
    difference = BackwardProjections(
        nn.Linear(CHANNELS, CHANNELS, bias=False), nn.Linear(CHANNELS, CHANNELS, bias=False), 0.7
    )
    forward, backward = torch.randn(2, POSITIONS, FRAMES, CHANNELS)
    expected = as_in_the_paper(forward, backward, layer, difference, 0.7)
    # Backward first in the batch: the order there must not matter.
    together = UNetCall([VideoInBatch("backward", 1), VideoInBatch("forward", 1)])
    found = dual_direction_attention("a", layer, difference, torch.cat([backward, forward]), together, attend)
    assert torch.allclose(found, torch.cat(expected[::-1]), atol=1e-6) and not together.maps

    maps = {}
    apart = [
        dual_direction_attention(
            "a", layer, difference, tokens, UNetCall([VideoInBatch(direction, 1)], maps=maps), attend
        )
        for direction, tokens in (("forward", forward), ("backward", backward))
    ]
    assert torch.allclose(torch.cat(apart), torch.cat(expected), atol=1e-6) and not maps


@torch.no_grad()
def test_four_videos_keep_their_own_maps():
    layer = projections()
    videos = [
        VideoInBatch(direction, half) for direction in ("backward", "forward") for half in ("negative", "positive")
    ]
    tokens = torch.randn(4, POSITIONS, FRAMES, CHANNELS)
    found = dual_direction_attention("a", layer, None, torch.cat(list(tokens)), UNetCall(videos), attend).chunk(4)
    for half in (0, 1):
        none = SimpleNamespace(to_v=SimpleNamespace(weight=0.0), to_out=SimpleNamespace(weight=0.0))
        expected = as_in_the_paper(tokens[2 + half], tokens[half], layer, none, 0.0)
        assert torch.allclose(found[2 + half], expected[0], atol=1e-6)
        assert torch.allclose(found[half], expected[1], atol=1e-6)


@torch.no_grad()
def test_own_maps_are_ordinary_attention():
    layer, tokens = projections(), torch.randn(2, POSITIONS, FRAMES, CHANNELS)
    call = UNetCall([VideoInBatch("forward", 1), VideoInBatch("backward", 1)], "own")
    found = dual_direction_attention("a", layer, None, torch.cat(list(tokens)), call, attend)
    both = torch.cat(list(tokens))
    assert torch.allclose(found, layer.to_out(attend(layer.to_q(both), layer.to_k(both), layer.to_v(both))), atol=1e-6)


def test_backward_without_its_forward_map_is_refused():
    with pytest.raises(ForwardMapMissing):
        dual_direction_attention(
            "a",
            projections(),
            None,
            torch.randn(POSITIONS, FRAMES, CHANNELS),
            UNetCall([VideoInBatch("backward", 1)]),
            attend,
        )


def test_maps_are_probabilities():
    attention_map = compute_map(*torch.randn(2, POSITIONS, FRAMES, CHANNELS), HEADS)
    assert torch.allclose(attention_map.sum(-1), torch.ones(POSITIONS, HEADS, FRAMES))


@torch.no_grad()
def test_attention_to_one_token_needs_no_queries():
    layer, tokens, context = projections(6), torch.randn(3, FRAMES, CHANNELS), torch.randn(3, 1, 6)
    q, k, v = layer.to_q(tokens), layer.to_k(context), layer.to_v(context)
    out = nn.functional.scaled_dot_product_attention(split_heads(q), split_heads(k), split_heads(v))
    expected = layer.to_out(out.transpose(1, 2).reshape(tokens.shape))
    assert torch.allclose(single_token_attention(layer, tokens, context), expected, atol=1e-6)


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


def test_weighted_fusion_trusts_each_direction_at_its_keyframe():
    weights = fusion.fusion_weights("weighted", 5).flatten()
    assert weights.tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert fusion.guidance_scales("weighted", 3, 1.0, 3.0).flatten().tolist() == [1, 2, 3]
    assert fusion.guidance_scales("average", 3, 1.0, 3.0).flatten().tolist() == [2, 2, 2]


def test_reinjection_goes_back_to_the_noise_level():
    sigmas = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.0])
    passes = []

    def one_step(model, x, sigmas, extra_args, callback, disable):
        for i in range(len(sigmas) - 1):
            passes.append((x.std().item(), sigmas[i].item(), extra_args["seed"]))
            x = x / sigmas[i] * sigmas[i + 1]
            callback({"i": i})
        return x

    steps = []
    reinjection.sample_with_reinjection(
        None,
        8 * seeded_noise((64, 4, 32, 32), 0),
        sigmas,
        {"seed": 3},
        lambda state: steps.append(state["i"]),
        sampler_function=one_step,
        reinjections=2,
        share=0.5,
    )
    assert steps == [0, 0, 0, 1, 1, 1, 2, 3]
    assert [sigma for _, sigma, _ in passes] == [8, 8, 8, 4, 4, 4, 2, 1]
    # The denoiser here removes a share of everything; what re-injection adds brings the level back to σ.
    assert all(std == pytest.approx(sigma, rel=0.02) for std, sigma, _ in passes)
    assert len({seed for *_, seed in passes[:6]}) == 6


@pytest.mark.parametrize(
    ("steps", "share", "expected"), [(50, 0.5, 25), (8, 0.5, 4), (5, 0.4, 2), (10, 0.3, 3), (3, 1.0, 3), (7, 0.0, 0)]
)
def test_share_of_the_steps_is_rounded_down(steps, share, expected):
    assert reinjection.reinjected_steps(steps, share) == expected
    assert reinjection.steps_with_reinjections(steps, 5, share) == steps + 5 * expected


def test_no_reinjection_is_the_sampler_itself():
    def sampler(model, x, sigmas, extra_args, callback, disable):
        return x * len(sigmas)

    x, sigmas = torch.ones(1), torch.tensor([2.0, 1.0, 0.0])
    found = reinjection.sample_with_reinjection(
        None, x, sigmas, {"seed": 5}, None, sampler_function=sampler, reinjections=0, share=0.5
    )
    assert found == 3


def test_progress_learns_what_a_step_costs():
    seen = []

    def callback(done, x0, x, total):
        seen.append((done + 1, total))

    with EvaluationProgress(callback, steps=3, quiet=True) as progress:
        for _ in range(3):
            progress.evaluated(None, None)
            progress.evaluated(None, None)
            progress.stepped(None, None)
    assert seen[0] == (1, 3) and seen[-1] == (6, 6)
    assert all(total == 6 for _, total in seen[1:])


def test_noise_depends_on_its_seed_alone():
    before = torch.random.get_rng_state()
    assert torch.equal(seeded_noise((3, 4), 7), seeded_noise((3, 4), 7))
    assert not torch.equal(seeded_noise((3, 4), 7), seeded_noise((3, 4), 8))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.isfinite(seeded_noise((2,), 2**64 - 1)).all()


def test_streams_of_a_seed_have_seeds_that_every_generator_takes():
    streams = [("pass", 0), ("pass", 1), ("pass", 11), ("re-injection", 1), ("clip", 1, 1)]
    seeds = [stream_seed(seed, *stream) for seed in (0, 1, 11, 2**64 - 1) for stream in streams]
    assert seeds == [stream_seed(seed, *stream) for seed in (0, 1, 11, 2**64 - 1) for stream in streams]
    # A generator on a CPU takes 32 bits of its seed.
    assert len({seed % 2**32 for seed in seeds}) == len(seeds)
    assert all(0 <= seed < 2**62 for seed in seeds)


@pytest.mark.parametrize(("fit", "corner", "middle"), [("crop", 1.0, 0.5), ("stretch", 0.0, 0.5), ("pad", 0.0, 0.5)])
def test_fits(fit, corner, middle):
    # Black, white and grey thirds: the crop of a wide picture starts within the white.
    picture = torch.full((1, 40, 120, 3), 0.5)
    picture[:, :, :20], picture[:, :, 20:50] = 0.0, 1.0
    fitted = keyframes.fit_picture(picture, 40, 40, fit)
    assert fitted.shape == (1, 40, 40, 3)
    assert fitted[0, 1, 1, 0].item() == pytest.approx(corner, abs=0.02)
    assert fitted[0, 20, 20, 0].item() == pytest.approx(middle, abs=0.05)


def test_picture_of_the_right_size_is_not_touched():
    picture = torch.rand(1, 64, 128, 3)
    assert keyframes.fit_picture(picture, 128, 64, "crop") is picture


def test_augmentation_noise_is_added_in_minus_one_to_one():
    picture, noise = torch.rand(1, 8, 8, 3), torch.randn(1, 3, 8, 8)
    noisy = keyframes.add_augmentation_noise(picture, noise, 0.1)
    expected = (picture * 2 - 1).movedim(-1, 1) + 0.1 * noise
    assert torch.allclose((noisy * 2 - 1).movedim(-1, 1), expected, atol=1e-6)
