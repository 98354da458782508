"""What a training step needs on a device: every tensor of a step counted on the meta device, nothing computed.

An estimate: the framework's context, the memory allocator's waste and convolution workspaces are not in it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from torch import nn

from ..common.latents import latent_shape
from ..common.live_bytes import GIB, LiveBytes
from .model import BackwardMotionModel, enable_gradient_checkpointing
from .settings import PRECISIONS, Settings
from .svd import check_is_svd, encode_images, read_config

# GB of graphics memory, of cards that training is done on.
CARDS = (24, 48, 80)


class _FusedAttention(torch.autograd.Function):
    """Keeps what a fused attention kernel keeps: query, key, value, output, and one number a query."""

    @staticmethod
    def forward(ctx, query, key, value):
        output = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return output

    @staticmethod
    def backward(ctx, *gradients):
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


@contextlib.contextmanager
def fused_attention() -> Iterator[None]:
    """On the meta device torch would count the attention maps, which no GPU's kernel makes."""
    original = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = lambda query, key, value, **_: _FusedAttention.apply(query, key, value)
    try:
        yield
    finally:
        F.scaled_dot_product_attention = original


@dataclass(frozen=True)
class Need:
    """Bytes on the device."""

    frozen: int
    trained: int
    step: int
    keyframes: int

    @property
    def total(self) -> int:
        """Weights, and the larger of the two phases of a step."""
        return self.frozen + self.trained + max(self.step, self.keyframes)

    @property
    def with_margin(self) -> float:
        """The total plus what is not counted: a tenth for the allocator's waste, 1 GiB for the framework."""
        return 1.1 * self.total + GIB


def step_need(settings: Settings, unet_config: dict, vae_config: dict, device: str = "meta") -> Need:
    """Memory of one optimizer step, from the configurations alone."""
    with torch.device(device):
        # `to`, because the mixing factors are made on the CPU whatever the default device.
        unet = cast(UNetSpatioTemporalConditionModel, UNetSpatioTemporalConditionModel.from_config(unet_config))
        nn.Module.to(unet, torch.device(device))
        vae = cast(AutoencoderKLTemporalDecoder, AutoencoderKLTemporalDecoder.from_config(vae_config))
        vae.requires_grad_(False)
        model = BackwardMotionModel(unet, settings.maps, PRECISIONS[settings.mixed_precision])
        if settings.gradient_checkpointing:
            enable_gradient_checkpointing(model.unet)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    weights = [*unet.parameters(), *vae.parameters(), *model.parameters()]
    attention = fused_attention() if device == "meta" else contextlib.nullcontext()
    with attention, torch.device(device):
        with LiveBytes(weights) as step:
            # An empty step first: the one that counts finds the optimizer's state in place.
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            optimizer.zero_grad()
            model(**step_inputs(settings, unet.config)).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        with LiveBytes(weights) as keyframes:
            encode_images(vae, torch.empty(2 * settings.batch_size, 3, settings.height, settings.width))
    optimizer_bytes = step.now
    frozen = parameter_bytes(unet) + parameter_bytes(vae.encoder) + parameter_bytes(vae.quant_conv)
    return Need(frozen, parameter_bytes(model), step.peak, keyframes.peak + optimizer_bytes)


def step_inputs(settings: Settings, config: dict) -> dict[str, torch.Tensor]:
    """Empty arguments of BackwardMotionModel in the sizes of these settings, for a UNet of this configuration."""
    batch, (_, *latent) = settings.batch_size, latent_shape(1, settings.width, settings.height)
    clip = (batch, settings.frames, *latent)
    cross = config["cross_attention_dim"]
    width = cross if isinstance(cross, int) else cross[0]
    return {
        "latents": torch.empty(clip),
        "noise": torch.empty(clip),
        "sigma": torch.empty(batch),
        "first_latent": torch.empty(batch, *latent),
        "last_latent": torch.empty(batch, *latent),
        "first_embedding": torch.empty(batch, 1, width),
        "last_embedding": torch.empty(batch, 1, width),
        "time_ids": torch.empty(batch, 3),
    }


def parameter_bytes(module: nn.Module) -> int:
    """Bytes of a module's parameters."""
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def configurations(settings: Settings) -> tuple[dict, dict]:
    """The UNet's and the VAE's configuration of --base, or SVD's own without a base. Raises NotAnSVDModel."""
    if settings.base:
        base = Path(settings.base)
        return check_is_svd(base), read_config(base, "vae")
    architecture = json.loads((Path(__file__).parent / "configs" / "svd_architecture.json").read_text())
    return architecture["unet"], architecture["vae"]


def report(settings: Settings) -> str:
    """The need of these settings, and the largest batch for 24, 48 and 80 GB with and without recomputation."""
    unet, vae = configurations(settings)
    need = step_need(settings, unet, vae)
    lines = [
        (
            f"Estimate for {settings.width}x{settings.height}, {settings.frames} frames, batch {settings.batch_size}, "
            f"frozen network in {settings.mixed_precision}, gradient checkpointing "
            f"{'on' if settings.gradient_checkpointing else 'off'}, maps {settings.maps}:"
        ),
        f"  frozen weights (UNet, VAE encoder)     {need.frozen / GIB:7.2f} GiB",
        f"  trained matrices (float32)             {need.trained / GIB:7.2f} GiB",
        f"  gradients, optimizer and activations   {need.step / GIB:7.2f} GiB at the peak",
        f"  encoding both keyframes (before that)  {need.keyframes / GIB:7.2f} GiB at the peak",
        f"  counted in all                         {need.total / GIB:7.2f} GiB",
        f"  with 10 % and 1 GiB for what no tensor shows {need.with_margin / GIB:.1f} GiB",
        "",
        "| gradient checkpointing | batch 1 | batch 2 | largest batch on "
        + " | ".join(f"{card} GB" for card in CARDS)
        + " |",
        "|---|" + "---|" * (2 + len(CARDS)),
    ]
    for recompute in (True, False):
        variants = [replace(settings, batch_size=batch, gradient_checkpointing=recompute) for batch in (1, 2)]
        one, two = (need if each == settings else step_need(each, unet, vae) for each in variants)
        largest = [largest_batch(one.with_margin, two.with_margin, card * 1e9) for card in CARDS]
        lines.append(
            f"| {'on' if recompute else 'off'} | {one.with_margin / GIB:.1f} GiB | "
            f"{two.with_margin / GIB:.1f} GiB | " + " | ".join(str(each or "none") for each in largest) + " |"
        )
    return "\n".join(lines)


def largest_batch(one: float, two: float, available: float) -> int:
    """The largest batch that fits, need growing by the same amount with each clip; 0 where not even one does."""
    return max(0, int((available - one) // (two - one)) + 1)
