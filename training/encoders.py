"""The frozen encoders of an SVD folder: VAE latents and CLIP image embeddings, as the released pipeline makes them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLTemporalDecoder
from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion as released
from torch import nn
from transformers import CLIPVisionModelWithProjection
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from .svd import NotAnSVDModel, load_part, read_config

# One 1024x576 image: the encoder's widest activations take 0.3 GB for it in float32.
PIXELS_AT_ONCE = 1024 * 576


def load_vae(base: Path) -> AutoencoderKLTemporalDecoder:
    """The VAE in float32, frozen; raises NotAnSVDModel."""
    return _load(base, "vae", "AutoencoderKLTemporalDecoder", AutoencoderKLTemporalDecoder)


def load_image_encoder(base: Path) -> CLIPVisionModelWithProjection:
    """The CLIP image encoder in float32, frozen; raises NotAnSVDModel."""
    return _load(base, "image_encoder", "CLIPVisionModelWithProjection", CLIPVisionModelWithProjection)


def _load(base: Path, part: str, class_name: str, model_class: type) -> nn.Module:
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
    parts = [vae.encode(part.to(vae.device, vae.dtype)).latent_dist for part in images.split(at_once)]
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
