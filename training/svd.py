"""Stable Video Diffusion folders in diffusers' layout: loading, checking, and where the temporal layers are."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D, TemporalResnetBlock
from safetensors import SafetensorError
from torch import nn

logger = logging.getLogger(__name__)

# The original network normalises with 1e-5 in every residual block (ComfyUI: GroupNorm(32, channels) in ResBlock,
# openaimodel.py); only the norm in front of a transformer has 1e-6, and diffusers has that one right.
RESIDUAL_BLOCK_EPS = 1e-5


class NotAnSVDModel(ValueError):
    """The base folder holds no model of Stable Video Diffusion's architecture."""


def use_original_group_norm(unet: nn.Module) -> nn.Module:
    """Set GroupNorm's eps in all residual blocks to the original SVD's 1e-5 (diffusers has 1e-6 in most of them)."""
    for module in unet.modules():
        if isinstance(module, (ResnetBlock2D, TemporalResnetBlock)):
            module.norm1.eps = RESIDUAL_BLOCK_EPS
            module.norm2.eps = RESIDUAL_BLOCK_EPS
    return unet


def temporal_self_attentions(unet: nn.Module) -> dict[str, Attention]:
    """The temporal self-attention layers by module name, in the network's order; 16 of them in SVD."""
    return {
        name: module
        for name, module in unet.named_modules()
        if name.endswith(".attn1") and ".temporal_transformer_blocks." in name
    }


def read_config(base: Path, part: str) -> dict:
    """The configuration of one part of a diffusers folder; raises NotAnSVDModel if it is missing or unreadable."""
    path = Path(base) / part / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotAnSVDModel(
            f"--base: expected a diffusers folder of Stable Video Diffusion, but {path} does not exist. Give the "
            "folder that holds unet/, vae/ and image_encoder/."
        ) from error
    except (OSError, ValueError) as error:
        raise NotAnSVDModel(f"--base: {path} cannot be read ({error}). Download the model again.") from error


def check_is_svd(base: Path) -> dict:
    """The UNet's configuration, after checking that it is SVD's architecture; raises NotAnSVDModel."""
    config = read_config(base, "unet")
    expected = {"_class_name": "UNetSpatioTemporalConditionModel", "in_channels": 8, "out_channels": 4}
    for key, value in expected.items():
        if config.get(key) != value:
            raise NotAnSVDModel(
                f"--base: {base} is no Stable Video Diffusion model: unet/config.json has {key} = "
                f"{config.get(key)!r}, expected {value!r}. Give an SVD folder, such as stable-video-diffusion-img2vid."
            )
    return config


def weights_variant(base: Path, part: str) -> str | None:
    """The variant of a part's weight files: None for plain names, "fp16" where only `.fp16.` names are present."""
    names = [path.name for path in (Path(base) / part).glob("*.safetensors*")]
    if not names:
        raise NotAnSVDModel(
            f"--base: {Path(base) / part} holds no .safetensors file. Only safetensors are read; convert other "
            "formats first, or download the model's safetensors."
        )
    return "fp16" if all(".fp16." in name for name in names) else None


def load_part(base: Path, part: str, model_class: type) -> nn.Module:
    """One model of a diffusers folder in float32, frozen; every weight must be there. Raises NotAnSVDModel."""
    try:
        model, loaded = model_class.from_pretrained(
            Path(base) / part,
            variant=weights_variant(base, part),
            torch_dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise NotAnSVDModel(f"--base: {part} in {base} cannot be loaded: {error}") from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loaded[problem]:
            raise NotAnSVDModel(
                f"--base: the weights of {part} in {base} do not fit its configuration: "
                f"{len(loaded[problem])} {problem.replace('_', ' ')}, the first: "
                f"{min(map(str, loaded[problem]))}. Download the model again."
            )
    return model.requires_grad_(False).eval()


def load_unet(base: Path) -> UNetSpatioTemporalConditionModel:
    """The UNet of an SVD folder in float32, frozen, with the original GroupNorm eps; raises NotAnSVDModel."""
    check_is_svd(base)
    unet = load_part(base, "unet", UNetSpatioTemporalConditionModel)
    if not temporal_self_attentions(unet):
        raise NotAnSVDModel(f"--base: the UNet in {base} has no temporal attention layers: nothing to train.")
    return use_original_group_norm(unet)
