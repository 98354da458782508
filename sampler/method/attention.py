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

Cross-attention to a single token, exactly, without its queries, keys and softmax.

SVD's context is one CLIP image token. The softmax over one score is 1, so the attention's result is O · V · context for
every query: `to_q`, `to_k` and the attention itself drop out.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, Protocol

import torch

from .fusion import reverse_sequences

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Replacement = Callable[..., torch.Tensor]
TEMPORAL_ATTENTIONS = ("rotated", "own")
_TOKENS_AT_ONCE = 2**15


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

    `maps`: {(layer, conditioning): `[positions, heads, frames, frames]`}, or the queries and keys that a replaced
    attention makes its own map of. They are given up as they are used, unless `keeps_maps`. `frames`: those of each
    video, where they are to be checked.
    """

    videos: list[Video]
    temporal_attention: str = "rotated"
    maps: dict[tuple[str, object], torch.Tensor | tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    keeps_maps: bool = False
    frames: int | None = None
    layers_done: int = 0

    def __post_init__(self):
        # Once a call, so that what a compiler reads in the layers does not change from one conditioning to the next.
        self.twins = [self._twin(index) for index in range(len(self.videos))]

    def _twin(self, index: int) -> int | None:
        """Which video is the other direction of the same conditioning, if it is in this call."""
        return next(
            (
                other
                for other, video in enumerate(self.videos)
                if other != index and video.conditioning == self.videos[index].conditioning
            ),
            None,
        )


class ForwardMapMissing(RuntimeError):
    """A backward video came before the forward video whose attention map it needs, or a second time."""


class VideosDivided(RuntimeError):
    """The UNet was given other videos than those of the call that it belongs to."""


@dataclass
class BackwardProjections:
    """What the backward direction adds: ΔV and ΔO of one layer, and how much of them (0…1)."""

    to_v: Callable[[torch.Tensor], torch.Tensor]
    to_out: Callable[[torch.Tensor], torch.Tensor]
    strength: float = 1.0


@dataclass
class Tokens:
    """What queries, keys and values are made of, `[videos · positions, frames, channels]`, one tensor for all three.

    Unless attention patches of other nodes have changed them.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor

    def parts(self, count: int) -> list["Tokens"]:
        """Those of each video."""
        return [Tokens(*part) for part in zip(*(x.chunk(count) for x in (self.query, self.key, self.value)))]


def dual_direction_attention(
    layer: str,
    projections: Projections,
    backward: BackwardProjections | None,
    tokens: torch.Tensor | Tokens,
    call: UNetCall,
    attend: Attend,
    replacement: Replacement | None = None,
) -> torch.Tensor:
    """One temporal self-attention over all videos of a UNet call, forward ones first.

    `tokens`: `[videos · positions, frames, channels]`, backward videos in reversed time; the result has the same
    shape. `attend(q, k, v)` is any attention on `[positions, frames, channels]`; `replacement(q, k, v, video)`, in the
    place of it, another node's for the video of that index, in the video's own time.
    Raises ForwardMapMissing when a backward video's forward twin is neither in the call nor among its maps.
    """
    tokens = tokens if isinstance(tokens, Tokens) else Tokens(tokens, tokens, tokens)
    parts = tokens.parts(len(call.videos))
    results: list[torch.Tensor | None] = [None] * len(parts)
    shared: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for index in sorted(range(len(parts)), key=lambda index: call.videos[index].direction == "backward"):
        video = None if replacement is None else partial(replacement, video=index)
        if call.videos[index].direction == "forward":
            results[index] = _forward(layer, projections, parts[index], index, call, shared, attend, video)
        else:
            results[index] = _backward(layer, projections, backward, parts[index], index, call, shared, attend, video)
    call.layers_done += 1
    return torch.cat(results)


def _forward(layer, projections, tokens, index, call, shared, attend, replacement):
    q, k, v = projections.to_q(tokens.query), projections.to_k(tokens.key), projections.to_v(tokens.value)
    if call.temporal_attention != "own":
        if call.twins[index] is not None:
            shared[index] = q, k
        elif replacement is not None:
            call.maps[layer, call.videos[index].conditioning] = q, k
        else:
            attention_map = compute_map(q, k, projections.heads)
            call.maps[layer, call.videos[index].conditioning] = attention_map
            return projections.to_out(apply_map(attention_map, v))
    return projections.to_out((replacement or attend)(q, k, v))


def _backward(layer, projections, backward, tokens, index, call, shared, attend, replacement):
    v = projections.to_v(tokens.value)
    if backward is not None:
        v = v + backward.strength * backward.to_v(tokens.value)
    if call.temporal_attention == "own":
        out = (replacement or attend)(projections.to_q(tokens.query), projections.to_k(tokens.key), v)
    else:
        kept = _forward_map(layer, index, call, shared)
        if isinstance(kept, torch.Tensor):
            out = reverse_sequences(apply_map(kept, reverse_sequences(v)))
        elif replacement is not None:
            # In the video's own time, since what another node makes of the map may not be rotated afterwards.
            out = replacement(*(reverse_sequences(x) for x in kept), v)
        else:
            out = reverse_sequences(attend(*kept, reverse_sequences(v)))
    result = projections.to_out(out)
    return result if backward is None else result + backward.strength * backward.to_out(out)


def _forward_map(layer, index, call, shared):
    """The forward twin's map, or its queries and keys."""
    kept = shared.get(call.twins[index])
    if kept is None:
        take = call.maps.get if call.keeps_maps else call.maps.pop
        kept = take((layer, call.videos[index].conditioning), None)
    if kept is None:
        raise ForwardMapMissing(layer)
    return kept


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


def single_token_attention(projections: Projections, tokens: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """O · V · context for every token.

    `tokens`: `[batch, length, channels]`; `context`: `[batch, 1, context channels]`; result as `tokens`.
    """
    return projections.to_out(projections.to_v(context)).expand(-1, tokens.shape[1], -1)
