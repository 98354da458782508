"""The demo model's CLIP image encoder: a few layers, trained to tell what is where in a picture, and where it heads."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from ..world.world import SIZE, Plan
from .clips import IMAGE_ENCODER_SEED, Pictures, clip_pixels
from .loop import Training
from .networks import autocast

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
CELLS = 4
"""The picture's cells in each direction for which the embedding must tell what is there."""


def attributes(pictures: torch.Tensor, plan: Plan) -> torch.Tensor:
    """What the embedding must tell of pictures `[n, 3, h, w]` in [-1, 1], about unit size, `[n, 6 CELLS²]`.

    For every cell its colour, and how much of objects is near and where they head.
    """
    middles = (torch.arange(CELLS, device=pictures.device) + 0.5) * (SIZE / CELLS)
    cells = torch.cartesian_prod(middles, middles).flip(1)
    distance = (plan.centre[:, :, 0, None] - cells).norm(dim=-1)
    near = torch.exp(-(distance / (SIZE / CELLS)).square()) * plan.present[..., None]
    heading = plan.heading[:, :, :1]
    objects = [(near * weight).sum(1) * 2 for weight in (torch.ones_like(heading), heading.cos(), heading.sin())]
    return torch.cat((F.avg_pool2d(pictures, SIZE // CELLS).flatten(1) * 2, *objects), 1)


def contrastive_loss(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Two frames of a clip must be nearer to each other than to those of other clips (InfoNCE, both ways)."""
    similarity = F.normalize(one, dim=-1) @ F.normalize(other, dim=-1).T / TEMPERATURE
    target = torch.arange(len(one), device=one.device)
    return (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2


def train_image_encoder(training: Training, folder: Path, device: torch.device, batch: int = 64) -> None:
    """Trains the image encoder and saves it in `folder`; `batch`: clips in a step, of which it sees two frames."""
    torch.manual_seed(training.seed)
    encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**CONFIG))
    reader = nn.Linear(CONFIG["projection_dim"], 6 * CELLS**2)
    networks = nn.ModuleDict({"encoder": encoder, "reader": reader}).to(device)
    pictures = Pictures(IMAGE_ENCODER_SEED, device)

    def step(number: int) -> dict[str, torch.Tensor]:
        images, plans = pictures.two_frames(number, batch)
        with autocast(device):
            embeds = encoder(clip_pixels(images)).image_embeds.float()
        target = torch.cat([attributes(half, plan) for half, plan in zip(images.chunk(2), plans, strict=True)])
        told = F.mse_loss(reader(embeds), target)
        size = (embeds.square().mean() - 1).square()
        loss = told + 0.1 * contrastive_loss(*embeds.chunk(2)) + 0.1 * size
        return {"loss": loss, "attributes_mse": told}

    training.run(networks, step)
    encoder.cpu().eval().save_pretrained(folder)
