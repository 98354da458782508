"""Clips of the small world, prepared for training.

They are encoded for the demo model, or written as folders of frames, the data of `training/fine_tune.py`:

    python -m generative_inbetweening.demo.model.clips --out CLIPS --clips 256
    python -m generative_inbetweening.demo.model.clips --out HELD_OUT --clips 32 --split test
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLTemporalDecoder
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPVisionModelWithProjection
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from ...weights.files import save_tensors
from ..world.world import Clip, make_clips
from .parallel import barrier, rank, size

logger = logging.getLogger(__name__)

NOISE_AUGMENTATION = 0.02
# The base model's clips to train on start at seed 0.
HELD_OUT_SEED = 1_000_000
# Clips for fine-tuning, beyond every seed of the base model. The test split from 2,000,000 on is the benchmarks'.
_FINE_TUNING_SEEDS = {"train": 2_000_000, "test": 3_000_000}
_CLIPS_AT_ONCE = 32


def frames_of(clips: list[Clip]) -> torch.Tensor:
    """`[clips, frames, 3, h, w]` in [-1, 1]."""
    return torch.stack([clip.frames for clip in clips]) * 2 - 1


def clip_pixels(images: torch.Tensor) -> torch.Tensor:
    """What the CLIP image encoder sees: the whole image at 224x224, antialiased, then CLIP mean and std.

    `images` in [-1, 1], `[n, 3, h, w]`. The released pipeline blurs before its resize (`training/svd.py`); here torch's
    own antialiasing does it, with which the shipped image encoder was trained.
    """
    resized = F.interpolate(images, (224, 224), mode="bicubic", antialias=True, align_corners=False)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return ((resized + 1) / 2 - mean) / std


@torch.no_grad()
def encode_clips(
    vae: AutoencoderKLTemporalDecoder,
    image_encoder: CLIPVisionModelWithProjection,
    clips: list[Clip],
    generator: torch.Generator,
) -> dict[str, torch.Tensor]:
    """Everything a training step of the UNet needs from these clips.

    `latents` scaled by the VAE's factor, `[n, frames, 4, h, w]`; `first` and `last`: unscaled latents of the first and
    last frame with noise augmentation, `[n, 4, h, w]`; `embed_first`, `embed_last` of the clean frames, `[n, c]`.
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
    vae: AutoencoderKLTemporalDecoder,
    image_encoder: CLIPVisionModelWithProjection,
    folder: Path,
    split: str,
    count: int,
    part: int = 128,
) -> dict[str, torch.Tensor]:
    """Encodings of `count` clips, computed in parts that are kept in `folder` and taken up again.

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
        logger.info("latents: %s %d of %d, %.0f s", split, start + len(clips), count, time.time() - began)
    barrier()
    parts = [load_file(path) for path in paths]
    return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}


def write_clips(out: Path, clips: int, split: str) -> None:
    """Writes `clips` clips as `out/00000/000.png`, …; `split` is `train` or `test`.

    The shipped model's fine-tuning watched its loss on the test split from seed 2,000,000 on: its 48 held-out clips are
    the first 48 of the benchmarks.
    """
    first_seed = _FINE_TUNING_SEEDS[split]
    for start in range(0, clips, _CLIPS_AT_ONCE):
        numbers = range(start, min(start + _CLIPS_AT_ONCE, clips))
        for number, clip in zip(numbers, make_clips([first_seed + number for number in numbers], split)):
            folder = out / f"{number:05d}"
            folder.mkdir(parents=True, exist_ok=True)
            for index, frame in enumerate(clip.frames):
                pixels = (frame.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
                Image.fromarray(pixels).save(folder / f"{index:03d}.png")


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m generative_inbetweening.demo.model.clips",
        description="Writes clips of the small world as folders of frames, the data that fine_tune.py reads.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the clips")
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--split", choices=("train", "test"), default="train")
    options = parser.parse_args()
    write_clips(options.out, options.clips, options.split)


if __name__ == "__main__":
    main()
