"""The temporal attention of both directions, on plain tensors, against equation 4 with the map as a tensor."""

from types import SimpleNamespace

import pytest
import torch
from generative_inbetweening.sampler.method.attention import (
    BackwardProjections,
    ForwardMapMissing,
    UNetCall,
    VideoInBatch,
    compute_map,
    dual_direction_attention,
    single_token_attention,
)
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
