"""The same networks computed faster: nothing here changes what they compute beyond rounding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.resnet import ResnetBlock2D, SpatioTemporalResBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from torch import nn

COMPILED = (SpatioTemporalResBlock, TransformerSpatioTemporalModel, ResnetBlock2D)
"""What is compiled by itself: a few kinds of blocks that repeat, which takes far less time than the whole network."""


class TemporalConvolution(nn.Conv3d):
    """A convolution over time, (3, 1, 1), computed as a two-dimensional one, for which there are faster kernels."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`[n, c, frames, h, w]` to the same with other channels."""
        flat = F.conv2d(hidden_states.flatten(3), self.weight[..., 0], self.bias, padding=(1, 0))
        return flat.unflatten(3, hidden_states.shape[3:])


class GroupNorm(nn.GroupNorm):
    """The norm in its input's own precision (its sums are float32): autocast would write it out in float32."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """`input` normalised, in its precision."""
        with torch.autocast(input.device.type, enabled=False):
            weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)
            return F.group_norm(input, self.num_groups, weight, bias, self.eps)


class LayerNorm(nn.LayerNorm):
    """The same for the norms of transformers."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """`input` normalised, in its precision."""
        with torch.autocast(input.device.type, enabled=False):
            weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)
            return F.layer_norm(input, self.normalized_shape, weight, bias, self.eps)


class SingleTokenAttention(Attention):
    """Cross-attention to one token: its softmax is 1, so queries and keys do not matter."""

    def forward(self, hidden_states, encoder_hidden_states=None, **_):
        """The token's value through the output projection, for every query."""
        return self.to_out[0](self.to_v(encoder_hidden_states))


class ShortAttention:
    """Attention processor for few tokens, at most `MOST`: two products are faster there than the fused kernel."""

    MOST = 64

    def __init__(self) -> None:
        self.long = AttnProcessor2_0()

    def __call__(self, attention: Attention, hidden_states: torch.Tensor, **more: torch.Tensor | None) -> torch.Tensor:
        """Self-attention of `[n, tokens, c]`."""
        if hidden_states.shape[1] > self.MOST:
            return self.long(attention, hidden_states, **more)
        query, key, value = (
            layer(hidden_states).unflatten(2, (attention.heads, -1)).transpose(1, 2)
            for layer in (attention.to_q, attention.to_k, attention.to_v)
        )
        weights = (query * attention.scale @ key.mT).float().softmax(-1).to(value.dtype)
        return attention.to_out[0]((weights @ value).transpose(1, 2).flatten(2))


class Unused(nn.LayerNorm):
    """The norm in front of such an attention."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """`input`."""
        return input


def quicken(network: nn.Module) -> nn.Module:
    """Puts faster classes in place of some of a network's parts; weights and their names stay."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size == (3, 1, 1):
            module.__class__ = TemporalConvolution
        if type(module) is nn.GroupNorm:
            module.__class__ = GroupNorm
        if type(module) is nn.LayerNorm:
            module.__class__ = LayerNorm
        if isinstance(getattr(module, "attn1", None), Attention):
            module.attn1.set_processor(ShortAttention())
        if getattr(module, "attn2", None) is not None:
            module.attn2.__class__, module.norm2.__class__ = SingleTokenAttention, Unused
    return network


def placed(network: nn.Module, device: torch.device) -> nn.Module:
    """The network on the device; on a GPU with its pictures' channels next to each other in memory.

    A CPU multiplies faster that way, too, but GroupNorm's backward pass is three times slower.
    """
    network = network.to(device)
    for parameter in network.parameters():
        if parameter.ndim == 4 and device.type == "cuda":
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


def for_training(network: nn.Module, device: torch.device, compiled: bool) -> nn.Module:
    """The network on the device; with `compiled` its blocks are compiled when they are first used."""
    network = placed(quicken(network), device)
    if compiled:
        # One piece of code serves blocks of many shapes, each compiled for itself.
        torch._dynamo.config.recompile_limit = 256
        inside = set()
        for module in network.modules():
            if isinstance(module, COMPILED) and module not in inside:
                inside.update(module.modules())
                module.compile(dynamic=False)
    return network


def autocast(device: torch.device) -> torch.autocast:
    """Matrix products and convolutions in bfloat16, weights and sums in float32."""
    return torch.autocast(device.type, torch.bfloat16)
