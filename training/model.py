"""One UNet for both passes of backward fine-tuning.

The frozen network serves the reference pass (the clip in its own order). Trainable copies of the value and output
projections of its temporal self-attentions sit beside it; the trained pass (the reversed clip) runs through the same
network with these copies in place, and with the reference's attention maps rotated by 180 degrees.
Wang et al., Generative Inbetweening, arXiv 2408.15239, section 4.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.attention_processor import Attention
from torch import nn
from torch.utils import checkpoint

from . import edm
from .svd import temporal_self_attentions, value_and_output

MAPS = ("rotated", "own")


def _heads(projected: torch.Tensor, attention: Attention) -> torch.Tensor:
    """[sequences, frames, channels] to [sequences, heads, frames, channels of a head]."""
    return projected.unflatten(-1, (attention.heads, -1)).transpose(1, 2)


def _attention_map(attention: Attention, hidden_states: torch.Tensor) -> torch.Tensor:
    """Attention probabilities of a temporal layer: [sequences, heads, frames, frames]."""
    query = _heads(attention.to_q(hidden_states), attention) * attention.scale
    key = _heads(attention.get_submodule("to_k")(hidden_states), attention)
    return (query @ key.transpose(-1, -2)).softmax(dim=-1)


class TemporalAttention:
    """diffusers attention processor of one temporal self-attention layer.

    In the reference pass it keeps the layer's probabilities, already rotated. They are the smaller thing to keep:
    heads * frames^2 numbers a position against 2 * frames * channels for query and key, which for SVD's 64-wide heads
    is less up to 128 frames. They stay in place until the next reference pass, so that a layer recomputed in the
    backward pass (gradient checkpointing) reads the maps that its forward pass read.
    """

    def __init__(self, to_v: nn.Parameter, to_out: nn.Parameter) -> None:
        self.to_v = to_v
        self.to_out = to_out
        # "reference", or the maps of the trained pass: "rotated" or "own".
        self.role = "reference"
        self.rotated_map = torch.empty(0)

    def __call__(self, attn: Attention, hidden_states: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        probabilities = self.rotated_map if self.role == "rotated" else _attention_map(attn, hidden_states)
        if self.role == "reference":
            to_v, to_out = value_and_output(attn)
            self.rotated_map = probabilities.detach().flip(-1, -2)
        else:
            to_v, to_out = self.to_v.to(hidden_states.dtype), self.to_out.to(hidden_states.dtype)
        values = _heads(F.linear(hidden_states, to_v), attn)
        return F.linear(
            (probabilities @ values).transpose(1, 2).flatten(2), to_out, attn.get_parameter("to_out.0.bias")
        )


class BackwardMotionModel(nn.Module):
    """A frozen SVD UNet with trainable backward-motion projections; its forward is the training loss.

    Its parameters are the trainable matrices alone (float32), so that an optimizer, or a wrapper for several devices,
    sees nothing else. `unet` is frozen and switched to `dtype`; the copies start from the weights as that precision
    has them.
    """

    def __init__(
        self, unet: UNetSpatioTemporalConditionModel, maps: str = "rotated", dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        if maps not in MAPS:
            raise ValueError(f"--maps: expected one of {', '.join(MAPS)}, found {maps!r}.")
        layers = temporal_self_attentions(unet)
        self.maps = maps
        self.layer_names = list(layers)
        # A list hides the frozen network from parameters(): nothing in it is trained, synchronised or saved.
        # diffusers' own `to` warns of modules to keep in float32; SVD has none.
        nn.Module.to(unet.requires_grad_(False).eval(), dtype)
        self._frozen = [unet]
        precision = torch.promote_types(torch.float32, dtype)
        copies = [value_and_output(layer) for layer in layers.values()]
        self.to_v = nn.ParameterList(nn.Parameter(v.detach().to(precision, copy=True)) for v, _ in copies)
        self.to_out = nn.ParameterList(nn.Parameter(out.detach().to(precision, copy=True)) for _, out in copies)
        self._processors = [TemporalAttention(to_v, to_out) for to_v, to_out in zip(self.to_v, self.to_out)]
        for layer, processor in zip(layers.values(), self._processors):
            # Any callable serves, though diffusers declares its own classes only.
            layer.set_processor(processor)  # pyright: ignore[reportArgumentType]

    @property
    def unet(self) -> UNetSpatioTemporalConditionModel:
        """The frozen network."""
        return self._frozen[0]

    def named_trainable(self) -> dict[str, nn.Parameter]:
        """The trained matrices by their diffusers key, e.g. `….temporal_transformer_blocks.0.attn1.to_v.weight`."""
        named = {f"{name}.to_v.weight": value for name, value in zip(self.layer_names, self.to_v)}
        return named | {f"{name}.to_out.0.weight": value for name, value in zip(self.layer_names, self.to_out)}

    def differences(self) -> dict[str, torch.Tensor]:
        """Trained minus base weights by diffusers key, float32 on the CPU: what a backward-motion file holds."""
        base = self.unet.state_dict()
        return {
            name: (trained.detach() - base[name].to(trained.dtype)).cpu()
            for name, trained in self.named_trainable().items()
        }

    def _enter(self, role: str) -> None:
        for processor in self._processors:
            processor.role = role

    def predict(
        self,
        noisy: torch.Tensor,
        sigma: torch.Tensor,
        first_latent: torch.Tensor,
        last_latent: torch.Tensor,
        first_embedding: torch.Tensor,
        last_embedding: torch.Tensor,
        time_ids: torch.Tensor,
        maps: str | None = None,
    ) -> torch.Tensor:
        """v of the trained network on a noisy *reversed* clip.

        noisy: [batch, frames, 4, h, w], reversed in time; sigma: [batch]; latents of the clip's first and last frame:
        [batch, 4, h, w]; their embeddings: [batch, 1, width]; time_ids: [batch, 3]. Returns [batch, frames, 4, h, w].
        `maps` overrides the model's own setting, for comparison. The network stays in the trained pass, for the
        backward pass to recompute in.
        """
        maps = maps or self.maps
        dtype = self.unet.dtype
        time = edm.network_time(sigma)
        if maps == "rotated":
            self._enter("reference")
            reference = edm.network_input(noisy.flip(1), sigma, first_latent).to(dtype)
            with torch.no_grad():
                self.unet(reference, time, first_embedding.to(dtype), time_ids, return_dict=False)
        self._enter(maps)
        reversed_input = edm.network_input(noisy, sigma, last_latent).to(dtype)
        return self.unet(reversed_input, time, last_embedding.to(dtype), time_ids, return_dict=False)[0]

    def forward(
        self,
        latents: torch.Tensor,
        noise: torch.Tensor,
        sigma: torch.Tensor,
        first_latent: torch.Tensor,
        last_latent: torch.Tensor,
        first_embedding: torch.Tensor,
        last_embedding: torch.Tensor,
        time_ids: torch.Tensor,
        maps: str | None = None,
    ) -> torch.Tensor:
        """Loss of each clip, [batch].

        latents: [batch, frames, 4, h, w], the clip in its own order, scaled; noise: the same shape, for the reversed
        clip (the reference sees it flipped). The other arguments as in `predict`.
        """
        target = latents.flip(1)
        noisy = target + noise * edm.per_clip(sigma)
        prediction = self.predict(
            noisy, sigma, first_latent, last_latent, first_embedding, last_embedding, time_ids, maps
        )
        return edm.clip_losses(edm.denoise(prediction.to(noisy.dtype), noisy, sigma), target, sigma)


def enable_gradient_checkpointing(unet: UNetSpatioTemporalConditionModel) -> None:
    """Recompute residual, spatial and temporal blocks in the backward pass instead of keeping their insides.

    diffusers recomputes residual and spatial transformer blocks; the temporal transformer blocks are added here.
    """
    unet.enable_gradient_checkpointing()
    for name, module in unet.named_modules():
        block = cast(Any, module)
        if name.rpartition(".")[0].endswith("temporal_transformer_blocks"):
            block.forward = functools.partial(_recomputed, block.forward)


def _recomputed(forward: Callable[..., torch.Tensor], *args: object, **kwargs: object) -> torch.Tensor:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    recompute: Any = checkpoint.checkpoint
    return recompute(forward, *args, use_reentrant=False, **kwargs)
