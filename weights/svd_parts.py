"""The three networks of one Stable Video Diffusion model, as tensors in the names that ComfyUI builds them from."""

from dataclasses import dataclass, field

import torch

PARTS = ("unet", "vae", "image_encoder")


@dataclass
class SVDConfig:
    """The few numbers that cannot be read from the weights; the defaults are SVD's own.

    Either every attention head of the UNet has `num_head_channels` channels (SVD: 64), or every level has `num_heads`.
    """
    num_head_channels: int = 64
    num_heads: int = -1
    image_encoder_heads: int = 16
    image_encoder_activation: str = "gelu"


@dataclass
class SVDParts:
    """`unet` and `vae` in ComfyUI's names without prefix, `image_encoder` in transformers' names.

    Each is empty where it was not asked for.
    """
    unet: dict[str, torch.Tensor]
    vae: dict[str, torch.Tensor]
    image_encoder: dict[str, torch.Tensor]
    config: SVDConfig = field(default_factory=SVDConfig)
