"""Attention of both directions (Wang et al., "Generative Inbetweening", arXiv 2408.15239, section 4.1, equation 4).

Temporal self-attention. The backward direction does not compute an attention map of its own. It uses the forward
direction's, rotated by 180°, with fine-tuned value and output projections:

    forward:   out_f = O · softmax(Q Kᵀ / √d) · V x_f
    backward:  out_b = (O + ΔO) · rotate180(softmax(Q Kᵀ / √d)) · (V + ΔV) x_b

Rotating both axes of a map P reverses its queries and its keys, hence

    rotate180(P) · v = reverse(P · reverse(v))

With both directions in one UNet call the map is never a tensor: the same q and k serve twice. P itself is kept only
between calls, when the directions run one after the other.

Cross-attention to a single token. SVD's context is one CLIP image token. The softmax over one score is 1, so the result
is O · V · context for every query, exactly; `to_q`, `to_k` and the attention drop out.

Tokens are `[positions, frames, channels]`: one sequence of all frames for each spatial position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, Protocol

import torch

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Replacement = Callable[..., torch.Tensor]
QueriesAndKeys = tuple[torch.Tensor, torch.Tensor]
TEMPORAL_ATTENTIONS = ("rotated", "own")
_TOKENS_AT_ONCE = 2**15


def dual_direction_attention(
    layer: str,
    projections: Projections,
    backward: BackwardProjections | None,
    tokens: torch.Tensor | Tokens,
    call: UNetCall,
    attend: Attend,
    replacement: Replacement | None = None,
) -> torch.Tensor:
    """One temporal self-attention over all videos of a UNet call.

    `tokens`: `[videos · positions, frames, channels]`, backward videos in reversed time; the result has the same
    shape. `attend(q, k, v)`: any attention on `[positions, frames, channels]`; `replacement(q, k, v, video)`: another
    node's attention instead, given the video's index and its tokens in the video's own time. Only calls that other
    nodes' guidance functions make themselves have one, to compare the estimate with that of another attention. A MODEL
    that replaces the attention of every call is refused before sampling (host_nodes.py).

    Raises ForwardMapMissing when the map of a backward video is neither in the call nor among those kept.
    """
    parts = (tokens if isinstance(tokens, Tokens) else Tokens(tokens, tokens, tokens)).parts(len(call.videos))
    work = _Layer(layer, projections, backward, call, attend, replacement)
    results: dict[int, torch.Tensor] = {}
    # Forward videos first: the backward ones use their maps.
    for direction, compute in (("forward", work.forward), ("backward", work.backward)):
        for index, video in enumerate(call.videos):
            if video.direction == direction:
                results[index] = compute(index, parts[index])
    call.layers_done += 1
    return torch.cat([results[index] for index in range(len(parts))])


@dataclass
class _Layer:
    """One temporal attention during one UNet call.

    `added`: ΔV and ΔO; `shared`: {index of a forward video: its q and k} where the other direction is in the call.
    """

    name: str
    projections: Projections
    added: BackwardProjections | None
    call: UNetCall
    attend: Attend
    replacement: Replacement | None
    shared: dict[int, QueriesAndKeys] = field(default_factory=dict)

    def forward(self, index: int, tokens: Tokens) -> torch.Tensor:
        """O · softmax(Q Kᵀ / √d) · V x_f"""
        layers = self.projections
        q, k, v = layers.to_q(tokens.query), layers.to_k(tokens.key), layers.to_v(tokens.value)
        key = self.name, self.call.videos[index].identity
        if self.call.temporal_attention == "own":
            return layers.to_out(self._attention(index)(q, k, v))
        if self.call.other_direction[index] is not None:
            self.shared[index] = q, k
        elif self.replacement is not None:
            self.call.maps[key] = q, k
        else:
            self.call.maps[key] = attention_map = compute_map(q, k, layers.heads)
            return layers.to_out(apply_map(attention_map, v))
        return layers.to_out(self._attention(index)(q, k, v))

    def backward(self, index: int, tokens: Tokens) -> torch.Tensor:
        """(O + ΔO) · rotate180(P) · (V + ΔV) x_b; with `own` attention P is the backward direction's, unrotated."""
        layers, added = self.projections, self.added
        v = layers.to_v(tokens.value)
        if added is not None:
            v = v + added.strength * added.to_v(tokens.value)
        if self.call.temporal_attention == "own":
            out = self._attention(index)(layers.to_q(tokens.query), layers.to_k(tokens.key), v)
        else:
            out = self._rotated(index, self._forward_map(index), v)
        result = layers.to_out(out)
        return result if added is None else result + added.strength * added.to_out(out)

    def _rotated(self, index: int, forward_map: torch.Tensor | QueriesAndKeys, v: torch.Tensor) -> torch.Tensor:
        """rotate180(P) · v = reverse(P · reverse(v))"""
        if isinstance(forward_map, torch.Tensor):
            return reverse_sequences(apply_map(forward_map, reverse_sequences(v)))
        q, k = forward_map
        if self.replacement is None:
            return reverse_sequences(self.attend(q, k, reverse_sequences(v)))
        # In the video's own time: what another node makes of the map may not be rotated afterwards.
        return self._attention(index)(reverse_sequences(q), reverse_sequences(k), v)

    def _forward_map(self, index: int) -> torch.Tensor | QueriesAndKeys:
        """The map of the same conditioning's forward video, or its queries and keys."""
        other = self.call.other_direction[index]
        if other is not None and other in self.shared:
            return self.shared[other]
        take = self.call.maps.get if self.call.keeps_maps else self.call.maps.pop
        kept = take((self.name, self.call.videos[index].identity), None)
        if kept is None:
            raise ForwardMapMissing(self.name)
        return kept

    def _attention(self, index: int) -> Attend:
        return self.attend if self.replacement is None else partial(self.replacement, video=index)


def reverse_sequences(sequences: torch.Tensor) -> torch.Tensor:
    """The tokens of temporal attention in reversed time; `[positions, frames, channels]`."""
    return sequences.flip(1)


def compute_map(q: torch.Tensor, k: torch.Tensor, heads: int) -> torch.Tensor:
    """P = softmax(Q Kᵀ / √d), `[positions, heads, frames, frames]`, computed in float32, kept in q's precision."""
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


def single_token_attention(projections: Projections, tokens: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """O · V · context for every token.

    `tokens`: `[batch, length, channels]`; `context`: `[batch, 1, context channels]`; result as `tokens`.
    """
    return projections.to_out(projections.to_v(context)).expand(-1, tokens.shape[1], -1)


class Projections(Protocol):
    """The four linear layers of one attention, as ComfyUI's CrossAttention has them."""

    to_q: Callable[[torch.Tensor], torch.Tensor]
    to_k: Callable[[torch.Tensor], torch.Tensor]
    to_v: Callable[[torch.Tensor], torch.Tensor]
    to_out: Callable[[torch.Tensor], torch.Tensor]
    heads: int


@dataclass
class BackwardProjections:
    """What the backward direction adds: ΔV and ΔO of one layer, and how much of them (0…1)."""

    to_v: Callable[[torch.Tensor], torch.Tensor]
    to_out: Callable[[torch.Tensor], torch.Tensor]
    strength: float = 1.0


@dataclass(frozen=True)
class VideoInBatch:
    """One of the videos in a UNet call's batch: its direction, and what it is known by in both directions.

    `identity`: equal for the two videos that share an attention map.
    """

    direction: Literal["forward", "backward"]
    identity: object


@dataclass
class UNetCall:
    """The videos of one UNet call in their order in the batch, and the maps kept for later calls.

    `maps`: {(layer, identity): `[positions, heads, frames, frames]`}, or the queries and keys from which a replaced
    attention makes its own map. A map is dropped when it has been used, unless `keeps_maps`. `frames`: the length of
    each video, if it is to be checked.
    """

    videos: list[VideoInBatch]
    temporal_attention: str = "rotated"
    maps: dict[tuple[str, object], torch.Tensor | QueriesAndKeys] = field(default_factory=dict)
    keeps_maps: bool = False
    frames: int | None = None
    layers_done: int = 0

    def __post_init__(self):
        # Once a call, so that what a compiler reads in the layers does not change from one conditioning to the next.
        self.other_direction = [self._other_direction(index) for index in range(len(self.videos))]

    def _other_direction(self, index: int) -> int | None:
        """The index of the other direction of the same conditioning, if it is in this call."""
        video = self.videos[index]
        return next(
            (
                other
                for other, candidate in enumerate(self.videos)
                if candidate.direction != video.direction and candidate.identity == video.identity
            ),
            None,
        )


class ForwardMapMissing(RuntimeError):
    """A backward video came before the forward video whose attention map it needs, or came twice."""


class VideosDivided(RuntimeError):
    """The UNet was given other videos than those of the call that it belongs to."""


@dataclass
class Tokens:
    """The tokens of queries, keys and values, `[videos · positions, frames, channels]`.

    They are one and the same tensor unless another node's attention patches have changed them.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor

    def parts(self, count: int) -> list[Tokens]:
        """The tokens of each video."""
        return [Tokens(*part) for part in zip(*(x.chunk(count) for x in (self.query, self.key, self.value)))]
