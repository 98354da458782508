"""Stable Video Diffusion's networks from a folder in diffusers' layout, checked and frozen: UNet, VAE, image encoder.

The encoders make latents and embeddings as the released pipeline does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D, TemporalResnetBlock
from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion as released
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPVisionModelWithProjection
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

Network = TypeVar("Network", bound=nn.Module)

# The original network normalises with 1e-5 in every residual block (ComfyUI: GroupNorm(32, channels) in ResBlock,
# openaimodel.py); only the norm in front of a transformer has 1e-6, and diffusers has that one right.
RESIDUAL_BLOCK_EPS = 1e-5
# One 1024x576 image: the encoder's widest activations take 0.3 GB for it in float32.
PIXELS_AT_ONCE = 1024 * 576


class NotAnSVDModel(ValueError):
    """The base folder holds no model of Stable Video Diffusion's architecture."""


def use_original_group_norm(unet: Network) -> Network:
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
        if isinstance(module, Attention) and name.endswith(".attn1") and ".temporal_transformer_blocks." in name
    }


def value_and_output(attention: Attention) -> tuple[nn.Parameter, nn.Parameter]:
    """The two matrices of a temporal self-attention that fine-tuning changes, `to_v` and `to_out.0`."""
    return attention.get_parameter("to_v.weight"), attention.get_parameter("to_out.0.weight")


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


def load_part(base: Path, part: str, model_class: type[Network]) -> Network:
    """One model of a diffusers folder in float32, frozen; every weight must be there. Raises NotAnSVDModel."""
    loading: Any = model_class
    try:
        model, loaded = loading.from_pretrained(
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


def load_vae(base: Path) -> AutoencoderKLTemporalDecoder:
    """The VAE in float32, frozen; raises NotAnSVDModel."""
    return _load(base, "vae", "AutoencoderKLTemporalDecoder", AutoencoderKLTemporalDecoder)


def load_image_encoder(base: Path) -> CLIPVisionModelWithProjection:
    """The CLIP image encoder in float32, frozen; raises NotAnSVDModel."""
    return _load(base, "image_encoder", "CLIPVisionModelWithProjection", CLIPVisionModelWithProjection)


def _load(base: Path, part: str, class_name: str, model_class: type[Network]) -> Network:
    config = read_config(base, part)
    found = config.get("_class_name") or config.get("architectures", [None])[0]
    if found != class_name:
        raise NotAnSVDModel(
            f"--base: {base} is no Stable Video Diffusion model: {part}/config.json names {found!r}, "
            f"expected {class_name!r}."
        )
    return load_part(base, part, model_class)


@torch.no_grad()
def encode_images(vae: AutoencoderKLTemporalDecoder, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (= mode) and standard deviation of the encoder's distribution, each [n, 4, h/8, w/8], unscaled.

    images: [n, 3, height, width] in [-1, 1]. As many images at once as have the pixels of one 1024x576 frame.
    """
    at_once = max(1, PIXELS_AT_ONCE // (images.shape[-1] * images.shape[-2]))
    parts = [vae.encode(part.to(vae.device, vae.dtype), return_dict=False)[0] for part in images.split(at_once)]
    return torch.cat([part.mean for part in parts]), torch.cat([part.std for part in parts])


@dataclass
class ImageEmbedder:
    """CLIP embeddings of whole images, resized and normalised as the released pipeline does."""

    encoder: CLIPVisionModelWithProjection
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def load(cls, base: Path) -> ImageEmbedder:
        """The encoder with the mean and standard deviation of the folder's feature_extractor, if it has one."""
        path = Path(base) / "feature_extractor" / "preprocessor_config.json"
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return cls(
            load_image_encoder(base),
            tuple(config.get("image_mean", OPENAI_CLIP_MEAN)),
            tuple(config.get("image_std", OPENAI_CLIP_STD)),
        )

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Embeddings [n, 1, width] of images [n, 3, height, width] in [-1, 1]; the aspect is not kept."""
        size = self.encoder.config.image_size
        images = images.to(self.encoder.device, self.encoder.dtype)
        # The released pipeline's own resize, blur included, done in [-1, 1].
        resized = (released._resize_with_antialiasing(images, (size, size)) + 1) / 2
        mean = resized.new_tensor(self.mean).reshape(1, 3, 1, 1)
        std = resized.new_tensor(self.std).reshape(1, 3, 1, 1)
        return self.encoder((resized - mean) / std).image_embeds.unsqueeze(1)
