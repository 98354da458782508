"""Temporal attention shared by both directions (Wang et al., arXiv 2408.15239, section 4.1, equation 4).

The backward direction does not compute its own attention map: it uses the forward direction's, rotated by 180°, with
fine-tuned value and output projections:

    forward:   out_f = O · softmax(Q Kᵀ / √d) · V x_f
    backward:  out_b = (O + ΔO) · rotate180(softmax(Q Kᵀ / √d)) · (V + ΔV) x_b

Rotating both axes of the map is reversing its queries and its keys, hence

    rotate180(P) · v = reverse(P · reverse(v))

so that where both directions are in one call the map is never a tensor: the same q and k serve twice. Only when the
directions run one after the other is P kept between the calls.

A sequence here is the F frames at one spatial position: tensors are `[positions, frames, channels]`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch

from .time_reversal import reverse_sequences

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
TEMPORAL_ATTENTIONS = ("rotated", "own")
_TOKENS_AT_ONCE = 2 ** 15


class Projections(Protocol):
    """The four linear layers of one attention, as ComfyUI's CrossAttention has them."""
    to_q: Callable[[torch.Tensor], torch.Tensor]
    to_k: Callable[[torch.Tensor], torch.Tensor]
    to_v: Callable[[torch.Tensor], torch.Tensor]
    to_out: Callable[[torch.Tensor], torch.Tensor]
    heads: int


@dataclass(frozen=True)
class Video:
    """One of the videos that a UNet call computes: its direction, and the conditioning that both directions share."""
    direction: Literal["forward", "backward"]
    conditioning: object


@dataclass
class UNetCall:
    """The videos of one UNet call in their order in the batch, and the maps kept for calls to come.

    `maps`: {(layer, conditioning): `[positions, heads, frames, frames]`}.
    """
    videos: list[Video]
    temporal_attention: str = "rotated"
    maps: dict[tuple[str, object], torch.Tensor] = field(default_factory=dict)
    layers_done: int = 0

    def __post_init__(self):
        # Once a call, so that what a compiler reads in the layers does not change from one conditioning to the next.
        self.twins = [self._twin(index) for index in range(len(self.videos))]

    def _twin(self, index: int) -> int | None:
        """Which video is the other direction of the same conditioning, if it is in this call."""
        return next((other for other, video in enumerate(self.videos)
                     if other != index and video.conditioning == self.videos[index].conditioning), None)


class ForwardMapMissing(RuntimeError):
    """A backward video came before the forward video whose attention map it needs."""


@dataclass
class BackwardProjections:
    """What the backward direction adds: ΔV and ΔO of one layer, and how much of them (0…1)."""
    to_v: Callable[[torch.Tensor], torch.Tensor]
    to_out: Callable[[torch.Tensor], torch.Tensor]
    strength: float = 1.0


def dual_direction_attention(layer: str, projections: Projections, backward: BackwardProjections | None,
                             tokens: torch.Tensor, call: UNetCall, attend: Attend) -> torch.Tensor:
    """One temporal self-attention over all videos of a UNet call, forward ones first.

    `tokens`: `[videos · positions, frames, channels]`, backward videos in reversed time; the result has the same
    shape. `attend(q, k, v)` is any attention on `[positions, frames, channels]`.
    Raises ForwardMapMissing when a backward video's forward twin is neither in the call nor among its maps.
    """
    parts = tokens.chunk(len(call.videos))
    results: list[torch.Tensor | None] = [None] * len(parts)
    shared: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for index in sorted(range(len(parts)), key=lambda index: call.videos[index].direction == "backward"):
        part = parts[index]
        if call.videos[index].direction == "forward":
            results[index] = _forward(layer, projections, part, index, call, shared, attend)
        else:
            results[index] = _backward(layer, projections, backward, part, index, call, shared, attend)
    call.layers_done += 1
    return torch.cat(results)


def _forward(layer, projections, tokens, index, call, shared, attend):
    q, k, v = projections.to_q(tokens), projections.to_k(tokens), projections.to_v(tokens)
    if call.temporal_attention == "own":
        return projections.to_out(attend(q, k, v))
    if call.twins[index] is not None:
        shared[index] = q, k
        return projections.to_out(attend(q, k, v))
    attention_map = compute_map(q, k, projections.heads)
    call.maps[layer, call.videos[index].conditioning] = attention_map
    return projections.to_out(apply_map(attention_map, v))


def _backward(layer, projections, backward, tokens, index, call, shared, attend):
    v = projections.to_v(tokens)
    if backward is not None:
        v = v + backward.strength * backward.to_v(tokens)
    if call.temporal_attention == "own":
        out = attend(projections.to_q(tokens), projections.to_k(tokens), v)
    elif call.twins[index] in shared:
        q, k = shared[call.twins[index]]
        out = reverse_sequences(attend(q, k, reverse_sequences(v)))
    elif (layer, call.videos[index].conditioning) in call.maps:
        attention_map = call.maps.pop((layer, call.videos[index].conditioning))
        out = reverse_sequences(apply_map(attention_map, reverse_sequences(v)))
    else:
        raise ForwardMapMissing(layer)
    result = projections.to_out(out)
    return result if backward is None else result + backward.strength * backward.to_out(out)


def compute_map(q: torch.Tensor, k: torch.Tensor, heads: int) -> torch.Tensor:
    """softmax(Q Kᵀ / √d) as `[positions, heads, frames, frames]`, computed in float32, kept in q's precision."""
    # Some positions at a time: in float32, all of them would take more memory than anything else in the UNet.
    at_once = max(1, _TOKENS_AT_ONCE // q.shape[1])
    return torch.cat([_map(*parts, heads) for parts in zip(q.split(at_once), k.split(at_once))])


def _map(q: torch.Tensor, k: torch.Tensor, heads: int) -> torch.Tensor:
    q, k = _split_heads(q, heads), _split_heads(k, heads)
    scores = q.float() @ k.float().transpose(-1, -2) * q.shape[-1] ** -0.5
    return scores.softmax(dim=-1).to(q.dtype)


def apply_map(attention_map: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """P · v for `[positions, frames, channels]`."""
    return (attention_map @ _split_heads(v, attention_map.shape[1])).transpose(1, 2).reshape(v.shape)


def _split_heads(tokens: torch.Tensor, heads: int) -> torch.Tensor:
    positions, frames, channels = tokens.shape
    return tokens.reshape(positions, frames, heads, channels // heads).transpose(1, 2)
