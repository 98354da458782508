"""Contact sheet of the demo model: held-out truth, the VAE's reconstruction of it, and forward samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from PIL import Image
from transformers import CLIPVisionModelWithProjection

from .data import HELD_OUT_SEED, encode_clips, make_clips
from .unet import sample_forward, use_original_epsilon


@torch.no_grad()
def decode(vae: AutoencoderKLTemporalDecoder, latents: torch.Tensor) -> torch.Tensor:
    """Frames in [0, 1], ``[n, frames, 3, h, w]``, of scaled latents ``[n, frames, 4, h, w]``."""
    n, frames = latents.shape[:2]
    decoded = vae.decode(latents.flatten(0, 1) / vae.config.scaling_factor, num_frames=frames).sample
    return ((decoded + 1) / 2).clamp(0, 1).unflatten(0, (n, frames))


def contact_sheet(rows: list[torch.Tensor], zoom: int = 2) -> Image.Image:
    """Clips ``[frames, 3, h, w]`` in [0, 1], one a row, as a picture."""
    sheet = torch.cat([torch.cat(list(row), -1) for row in rows], 1)
    array = (sheet.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    picture = Image.fromarray(array)
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.NEAREST)


def write_preview(model: Path, path: Path, clips: int = 8, guidance: tuple[float, ...] = (1.0, 2.0)) -> Path:
    """For each held-out clip: truth, reconstruction, and one sample for each guidance.

    Args:
        model: diffusers folder.
        path: the PNG to write.
    """
    vae = AutoencoderKLTemporalDecoder.from_pretrained(model / "vae").eval()
    image_encoder = CLIPVisionModelWithProjection.from_pretrained(model / "image_encoder").eval()
    unet = UNetSpatioTemporalConditionModel.from_pretrained(model / "unet").eval()
    use_original_epsilon(unet)
    truth = make_clips(list(range(HELD_OUT_SEED, HELD_OUT_SEED + clips)), "test")
    encoded = encode_clips(vae, image_encoder, truth, torch.Generator().manual_seed(0))
    columns = [torch.stack([clip.frames for clip in truth]), decode(vae, encoded["latents"])]
    columns += [
        decode(vae, sample_forward(unet, encoded["first"], encoded["embed_first"], guidance=g)) for g in guidance
    ]
    contact_sheet([column[i] for i in range(clips) for column in columns]).save(path)
    return path
