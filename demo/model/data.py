"""What the demo model is trained on: clips of the small world, their latents and their image embeddings."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from ...weights.files import save_tensors
from ..world.world import Clip, make_clips
from .parallel import barrier, rank, size

log = logging.getLogger(__name__)

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
NOISE_AUGMENTATION = 0.02
HELD_OUT_SEED = 1_000_000


def frames_of(clips: list[Clip]) -> torch.Tensor:
    """``[clips, frames, 3, h, w]`` in [-1, 1]."""
    return torch.stack([clip.frames for clip in clips]) * 2 - 1


def clip_pixels(images: torch.Tensor) -> torch.Tensor:
    """What the CLIP image encoder sees: the whole image at 224x224, antialiased, then CLIP mean and std.

    ``images`` in [-1, 1], ``[n, 3, h, w]``; the resize is done in [-1, 1] as in the released pipeline.
    """
    resized = F.interpolate(images, (224, 224), mode="bicubic", antialias=True, align_corners=False)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    return ((resized + 1) / 2 - mean) / std


@torch.no_grad()
def encode_clips(
    vae: torch.nn.Module, image_encoder: torch.nn.Module, clips: list[Clip], generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Everything a training step of the UNet needs from these clips.

    Returns:
        ``latents`` scaled by the VAE's factor ``[n, frames, 4, h, w]``; ``first`` and ``last``: unscaled latents of
        the first and last frame with noise augmentation ``[n, 4, h, w]``; ``embed_first``, ``embed_last`` of the
        clean frames ``[n, c]``.
    """
    frames = frames_of(clips)
    n, count = frames.shape[:2]
    latents = vae.encode(frames.flatten(0, 1)).latent_dist.mode() * vae.config.scaling_factor
    result = {"latents": latents.unflatten(0, (n, count))}
    for name, index in (("first", 0), ("last", -1)):
        image = frames[:, index]
        noisy = image + NOISE_AUGMENTATION * torch.randn(image.shape, generator=generator)
        result[name] = vae.encode(noisy).latent_dist.mode()
        result[f"embed_{name}"] = image_encoder(clip_pixels(image)).image_embeds
    return result


def cached_pool(
    vae: torch.nn.Module, image_encoder: torch.nn.Module, folder: Path, split: str, count: int, part: int = 128
) -> dict[str, torch.Tensor]:
    """Encodings of ``count`` clips, computed in parts that are kept in ``folder`` and taken up again.

    In a group of processes each computes its share of the parts, and all get the whole.
    """
    began, offset = time.time(), HELD_OUT_SEED if split == "test" else 0
    starts = range(0, count, part)
    paths = [folder / f"{split}-{start:06d}.safetensors" for start in starts]
    for index, (start, path) in enumerate(zip(starts, paths, strict=True)):
        if index % size() != rank() or path.exists():
            continue
        clips = make_clips(list(range(offset + start, offset + min(start + part, count))), split)
        generator = torch.Generator().manual_seed(offset + start)
        pieces = [encode_clips(vae, image_encoder, clips[i : i + 16], generator) for i in range(0, len(clips), 16)]
        save_tensors(path, {k: torch.cat([p[k] for p in pieces]) for k in pieces[0]}, {}, overwrite=True)
        log.info("latents: %s %d of %d, %.0f s", split, start + len(clips), count, time.time() - began)
    barrier()
    parts = [load_file(path) for path in paths]
    return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
