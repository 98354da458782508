"""Clips of the small world, prepared for training.

They are drawn and encoded for the demo model, or written as folders of frames, the data of `training/fine_tune.py`:

    python -m generative_inbetweening.demo.model.clips --out CLIPS --clips 256
    python -m generative_inbetweening.demo.model.clips --out HELD_OUT --clips 32 --split test
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLTemporalDecoder
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPVisionModelWithProjection
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from ...weights.files import save_tensors
from ..world.world import SIZE, Plan, draw_frames, make_clips, make_frames, make_plan
from .networks import autocast

logger = logging.getLogger(__name__)

NOISE_AUGMENTATION = 0.02
# The UNet's clips to train on start at seed 0; the VAE's and the image encoder's are others.
VAE_SEED, IMAGE_ENCODER_SEED = 10_000_000, 50_000_000
HELD_OUT_SEED = 1_000_000
# Clips for fine-tuning, beyond every seed of the base model. The test split from 2,000,000 on is the benchmarks'.
_FINE_TUNING_SEEDS = {"train": 2_000_000, "test": 3_000_000}
_CLIPS_AT_ONCE = 32
_FRAMES_AT_ONCE = {"cpu": 4, "cuda": 512}
"""What is encoded together: a CPU takes half the time where it fits into its cache."""


def clip_pixels(images: torch.Tensor) -> torch.Tensor:
    """What the CLIP image encoder sees: the whole image at 224x224, antialiased, then CLIP mean and std.

    `images` in [-1, 1], `[n, 3, h, w]`. The released pipeline blurs before its resize (`training/svd.py`); here torch's
    own antialiasing does it, with which the shipped image encoder was trained.
    """
    resized = F.interpolate(images, (224, 224), mode="bicubic", antialias=True, align_corners=False)
    mean, std = (images.new_tensor(v).view(1, 3, 1, 1) for v in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return ((resized + 1) / 2 - mean) / std


def at_frame(plan: Plan, frame: torch.Tensor) -> Plan:
    """The plan of one frame of each clip: `frame` `[n]`."""
    rows = torch.arange(len(frame), device=frame.device)
    pose = {name: getattr(plan, name)[rows, :, frame][:, :, None] for name in ("centre", "heading", "scale")}
    ground = {name: getattr(plan, name)[rows, frame][:, None] for name in ("shift", "zoom")}
    return replace(plan, **pose, **ground)


class Pictures:
    """Endless training pictures of the small world, drawn where they are used, in [-1, 1].

    Each method gives batch `number`; no two batches of one size share a seed. Which frames are taken of a clip, and
    which parts of a frame, are torch's random numbers.
    """

    def __init__(self, first_seed: int, device: torch.device) -> None:
        self.first_seed, self.device = first_seed, device

    def _plan(self, number: int, count: int) -> Plan:
        first = self.first_seed + number * count
        return make_plan(torch.arange(first, first + count, device=self.device), "train")

    def single_frames(self, number: int, count: int) -> tuple[torch.Tensor, Plan]:
        """A random frame of each of `count` clips, `[count, 3, h, w]`, and its plan."""
        plan = self._plan(number, count)
        plan = at_frame(plan, torch.randint(plan.scale.shape[2], (count,), device=self.device))
        return draw_frames(plan, "train")[:, 0] * 2 - 1, plan

    def two_frames(self, number: int, count: int) -> tuple[torch.Tensor, tuple[Plan, Plan]]:
        """Two random frames of each of `count` clips, `[2 count, 3, h, w]`, the first ones first, and their plans."""
        plan = self._plan(number, count)
        chosen = torch.randint(plan.scale.shape[2], (2, count), device=self.device)
        plans = at_frame(plan, chosen[0]), at_frame(plan, chosen[1])
        return torch.cat([draw_frames(each, "train")[:, 0] for each in plans]) * 2 - 1, plans

    def clips(self, number: int, count: int) -> torch.Tensor:
        """`[count, frames, 3, h, w]`."""
        return draw_frames(self._plan(number, count), "train") * 2 - 1

    def crops(self, number: int, count: int, side: int) -> torch.Tensor:
        """A part of one frame of each of `count` clips, mostly around an object, `[count, 1, 3, side, side]`."""
        frames, plan = self.single_frames(number, count)
        return self._cropped(frames[:, None], plan, side)

    def clip_crops(self, number: int, count: int, side: int) -> torch.Tensor:
        """A part of each of `count` clips through which an object passes, `[count, frames, 3, side, side]`."""
        plan = self._plan(number, count)
        return self._cropped(draw_frames(plan, "train") * 2 - 1, plan, side)

    def _cropped(self, frames: torch.Tensor, plan: Plan, side: int) -> torch.Tensor:
        count, device = len(frames), self.device
        rows = torch.arange(count, device=device)
        chosen = (torch.rand(count, device=device) * plan.present.sum(1)).long()
        when = torch.randint(plan.centre.shape[2], (count,), device=device)
        jitter = torch.randint(-side // 3, side // 3 + 1, (count, 2), device=device)
        corner = plan.centre[rows, chosen, when].round().long() - side // 2 + jitter
        places = corner.clamp(0, SIZE - side)[..., None] + torch.arange(side, device=device)
        picked = frames[rows[:, None, None], :, :, places[:, 1, :, None], places[:, 0, None, :]]
        return picked.permute(0, 3, 4, 1, 2)


@torch.no_grad()
def encode_clips(
    vae: AutoencoderKLTemporalDecoder,
    image_encoder: CLIPVisionModelWithProjection,
    frames: torch.Tensor,
    generator: torch.Generator,
) -> dict[str, torch.Tensor]:
    """Everything a training step of the UNet needs from clips `[n, frames, 3, h, w]` in [0, 1].

    `latents` scaled by the VAE's factor, `[n, frames, 4, h, w]`; `first` and `last`: unscaled latents of the first and
    last frame with noise augmentation, `[n, 4, h, w]`; `embed_first`, `embed_last` of the clean frames, `[n, c]`.
    """
    frames = frames * 2 - 1
    ends = frames[:, [0, -1]]
    noise = torch.randn(ends.shape, generator=generator, device=generator.device).to(ends.device)
    with autocast(frames.device):
        pictures = torch.cat((frames, ends + NOISE_AUGMENTATION * noise), 1)
        parts = pictures.flatten(0, 1).split(_FRAMES_AT_ONCE[frames.device.type])
        encoded = torch.cat([vae.encode(part).latent_dist.mode().float() for part in parts])
        encoded = encoded.unflatten(0, pictures.shape[:2])
        embeds = image_encoder(clip_pixels(ends.flatten(0, 1))).image_embeds.float().unflatten(0, ends.shape[:2])
    return {
        "latents": encoded[:, :-2] * vae.config.scaling_factor,
        "first": encoded[:, -2],
        "last": encoded[:, -1],
        "embed_first": embeds[:, 0],
        "embed_last": embeds[:, 1],
    }


def cached_pool(
    vae: AutoencoderKLTemporalDecoder,
    image_encoder: CLIPVisionModelWithProjection,
    folder: Path,
    split: str,
    count: int,
    part: int = 4096,
) -> dict[str, torch.Tensor]:
    """Encodings of `count` clips on the VAE's device, in parts that are kept in `folder` and taken up again."""
    device, offset = vae.device, HELD_OUT_SEED if split == "test" else 0
    parts = []
    for start in range(0, count, part):
        path = folder / f"{split}-{start:06d}-{min(part, count - start)}.safetensors"
        if not path.exists():
            seeds = torch.arange(offset + start, offset + min(start + part, count), device=device)
            generator = torch.Generator(device).manual_seed(offset + start)
            pieces = [
                encode_clips(vae, image_encoder, make_frames(some, split), generator)
                for some in seeds.split(_CLIPS_AT_ONCE)
            ]
            tensors = {name: torch.cat([piece[name] for piece in pieces]).half().cpu() for name in pieces[0]}
            save_tensors(path, tensors, {}, overwrite=True)
            logger.info("latents: %s %d of %d", split, min(start + part, count), count)
        parts.append(load_file(path))
    return {name: torch.cat([p[name] for p in parts]).to(device).float() for name in parts[0]}


def write_clips(out: Path, clips: int, split: str) -> None:
    """Writes `clips` clips as `out/00000/000.png`, …; `split` is `train` or `test`."""
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
