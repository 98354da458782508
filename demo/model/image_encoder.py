"""The demo model's CLIP image encoder: a few layers, trained to tell what moves in a picture, and where to."""

from __future__ import annotations

import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from ..world.world import Clip, make_clips
from .clips import clip_pixels, frames_of
from .parallel import report

CONFIG = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 224,
    "patch_size": 32,
    "num_channels": 3,
    "projection_dim": 64,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}
TEMPERATURE = 0.1


def attributes(clips: list[Clip], frames: torch.Tensor) -> torch.Tensor:
    """What the embedding must tell about one frame of each clip, each number about unit size, `[clips, 13]`.

    Place, heading and colours of the main object, and the mean colour of the ground.
    """
    rows = []
    for clip, frame in zip(clips, frames.tolist(), strict=True):
        size = clip.frames.shape[-1]
        centre = (clip.motion.centre[0, frame] / size - 0.5) * 4
        heading = clip.motion.heading[0, frame]
        colours = (torch.cat((clip.cutout.head[0], clip.cutout.tail[0], clip.background[frame].mean((1, 2)))) - 0.5) * 3
        rows.append(torch.cat((centre, torch.stack((heading.cos(), heading.sin())) * 1.4, colours)))
    return torch.stack(rows)


def contrastive_loss(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Two frames of a clip must be nearer to each other than to those of other clips (InfoNCE, both ways)."""
    similarity = F.normalize(one, dim=-1) @ F.normalize(other, dim=-1).T / TEMPERATURE
    target = torch.arange(len(one))
    return (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2


def train_image_encoder(
    folder: Path, minutes: float, learning_rate: float = 1e-3, log_path: Path | None = None, seed: int = 1
) -> CLIPVisionModelWithProjection:
    """Trains the image encoder for so many minutes and saves it in `folder`."""
    torch.manual_seed(seed)
    encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**CONFIG))
    reader = nn.Linear(CONFIG["projection_dim"], 13)
    parameters = [*encoder.parameters(), *reader.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=1e-4)
    began, step, clips, pool = time.time(), 0, [], 256
    while (elapsed := (time.time() - began) / (minutes * 60)) < 1:
        if step % 24 == 0:
            clips = make_clips(list(range(step // 24 * pool, (step // 24 + 1) * pool)))
            frames = frames_of(clips)
        pick = torch.randperm(pool)[:48]
        first, second = torch.randint(8, (2, 48))
        images = torch.cat((frames[pick, first], frames[pick, second]))
        embeds = encoder(clip_pixels(images)).image_embeds
        chosen = [clips[i] for i in pick]
        target = torch.cat((attributes(chosen, first), attributes(chosen, second)))
        told = F.mse_loss(reader(embeds), target)
        size = (embeds.square().mean() - 1).square()
        loss = told + 0.1 * contrastive_loss(*embeds.chunk(2)) + 0.1 * size
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * min(1, (step + 1) / 50) * (1 - elapsed)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        if step % 25 == 0:
            record = {
                "stage": "image_encoder",
                "step": step,
                "loss": float(loss),
                "attributes_mse": float(told),
                "seconds": round(time.time() - began, 1),
            }
            report(record, log_path)
    encoder.eval().save_pretrained(folder)
    return encoder
