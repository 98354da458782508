"""The demo model's UNet: SVD's UNetSpatioTemporalConditionModel with few channels, trained from scratch as SVD is.

Preconditioning and loss are those of `training/edm.py`. Some clips lose their conditioning, so that guidance works.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.resnet import ResnetBlock2D, TemporalResnetBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel

from ...training import edm
from ...training.svd import use_original_group_norm
from .loop import Training, report
from .networks import autocast, for_training
from .optimisers import Average

CONFIG = {
    "block_out_channels": (64, 128, 128, 128),
    "num_attention_heads": (1, 2, 2, 2),
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal",) * 3 + ("DownBlockSpatioTemporal",),
    "up_block_types": ("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * 3,
    "cross_attention_dim": 64,
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 768,
    "in_channels": 8,
    "out_channels": 4,
    "layers_per_block": 1,
    "transformer_layers_per_block": 1,
    "num_frames": 8,
    "sample_size": 16,
}
TIME_IDS = (6.0, 127.0, 0.02)
"""fps − 1, motion bucket, noise augmentation: constants here."""
SIGMA_LOG_MEAN, SIGMA_LOG_STD = 1.0, 1.5
CONDITIONING_DROPOUT = 0.1
EMA_DECAY = 0.999
LEARNING_RATE = 1.5e-3


def start_as_identity(unet: UNetSpatioTemporalConditionModel) -> None:
    """Zeroes the last layer of each resnet and transformer and the output layer, as the original SVD starts."""
    last = [unet.conv_out]
    for module in unet.modules():
        if isinstance(module, (ResnetBlock2D, TemporalResnetBlock)):
            last.append(module.conv2)
        if isinstance(module, TransformerSpatioTemporalModel):
            last.append(module.proj_out)
    for layer in last:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)


def denoise(
    unet: UNetSpatioTemporalConditionModel,
    noisy: torch.Tensor,
    sigma: torch.Tensor,
    image: torch.Tensor,
    embed: torch.Tensor,
) -> torch.Tensor:
    """The denoised latents of `noisy`, `[n, frames, 4, h, w]`, at `sigma`, `[n]`.

    `image`: unscaled latents of the conditioning picture, `[n, 4, h, w]`; `embed`: its image embedding, `[n, c]`.
    """
    sample = edm.network_input(noisy, sigma, image)
    time_ids = noisy.new_tensor(TIME_IDS).expand(len(noisy), 3)
    with autocast(noisy.device):
        v = unet(sample, edm.network_time(sigma), embed[:, None], time_ids, return_dict=False)[0]
    return edm.denoise(v.float(), noisy, sigma)


def sigmas_of_quantiles(quantiles: torch.Tensor) -> torch.Tensor:
    """Noise levels below which these shares of the training's noise levels lie."""
    return (SIGMA_LOG_MEAN + SIGMA_LOG_STD * math.sqrt(2) * torch.erfinv(2 * quantiles - 1)).exp()


@torch.no_grad()
def held_out_loss(unet: UNetSpatioTemporalConditionModel, pool: dict[str, torch.Tensor]) -> float:
    """The loss on held-out clips with fixed noises and noise levels spread evenly over the training distribution."""
    generator, latents = torch.Generator().manual_seed(0), pool["latents"]
    sigma = sigmas_of_quantiles((torch.arange(len(latents)) + 0.5) / len(latents)).to(latents.device)
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    losses = []
    for start in range(0, len(latents), 64):
        part = slice(start, start + 64)
        noisy = latents[part] + noise[part] * edm.per_clip(sigma[part])
        denoised = denoise(unet, noisy, sigma[part], pool["first"][part], pool["embed_first"][part])
        losses.append(edm.clip_losses(denoised, latents[part], sigma[part]))
    return float(torch.cat(losses).mean())


@torch.no_grad()
def sample_forward(
    unet: UNetSpatioTemporalConditionModel,
    image: torch.Tensor,
    embed: torch.Tensor,
    frames: int = 8,
    steps: int = 25,
    guidance: float = 1.0,
    sigma_max: float = 80.0,
    sigma_min: float = 0.01,
    seed: int = 0,
) -> torch.Tensor:
    """Euler steps on Karras noise levels (ρ = 7) from pure noise; scaled latents `[n, frames, 4, h, w]`."""
    ramp = torch.linspace(0, 1, steps)
    sigmas = (sigma_max ** (1 / 7) + ramp * (sigma_min ** (1 / 7) - sigma_max ** (1 / 7))) ** 7
    sigmas = torch.cat((sigmas, torch.zeros(1))).to(image.device)
    n, _, height, width = image.shape
    x = torch.randn((n, frames, 4, height, width), generator=torch.Generator().manual_seed(seed)).to(image.device)
    x = x * (sigmas[0] ** 2 + 1).sqrt()
    for sigma, following in itertools.pairwise(sigmas):
        level = sigma.expand(n)
        denoised = denoise(unet, x, level, image, embed)
        if guidance != 1:
            without = denoise(unet, x, level, torch.zeros_like(image), torch.zeros_like(embed))
            denoised = without + guidance * (denoised - without)
        x = x + (x - denoised) / sigma * (following - sigma)
    return x


def _training_step(
    unet: UNetSpatioTemporalConditionModel, pool: dict[str, torch.Tensor], batch: int
) -> dict[str, torch.Tensor]:
    """The loss on a random batch, with the conditioning of some clips dropped."""
    device = pool["latents"].device
    pick = torch.randint(len(pool["latents"]), (batch,), device=device)
    latents = pool["latents"][pick]
    # Quantiles spread evenly over the batch: every step sees all noise levels, which steadies its gradient.
    quantiles = (torch.arange(batch, device=device) + torch.rand(batch, device=device)) / batch
    sigma = sigmas_of_quantiles(quantiles.clamp(1e-4, 1 - 1e-4))
    keep = (torch.rand(batch, device=device) >= CONDITIONING_DROPOUT).float()
    noisy = latents + torch.randn_like(latents) * edm.per_clip(sigma)
    image, embed = pool["first"][pick] * keep.view(-1, 1, 1, 1), pool["embed_first"][pick] * keep.view(-1, 1)
    return {"loss": edm.clip_losses(denoise(unet, noisy, sigma, image, embed), latents, sigma).mean()}


def export(folder: Path, average: Average) -> UNetSpatioTemporalConditionModel:
    """Saves the averaged weights as a diffusers folder, and returns the network with them, on the CPU."""
    averaged = UNetSpatioTemporalConditionModel(**CONFIG)
    averaged.load_state_dict({name: value.cpu().contiguous() for name, value in average.values.items()})
    # By hand: diffusers writes a folder of several files, which `atomic_write` cannot.
    temporary = folder.with_name(folder.name + ".part")
    averaged.save_pretrained(temporary)
    folder.mkdir(parents=True, exist_ok=True)
    for file in temporary.iterdir():
        file.replace(folder / file.name)
    temporary.rmdir()
    return averaged


def train_unet(
    training: Training,
    folder: Path,
    train_pool: dict[str, torch.Tensor],
    test_pool: dict[str, torch.Tensor],
    compiled: bool = False,
    batch: int = 16,
) -> None:
    """Trains the UNet on encoded clips; `folder` gets the averaged weights whenever a checkpoint is saved.

    Goes on from the weights in `folder` where it has some that no checkpoint is of.
    """
    device = train_pool["latents"].device
    torch.manual_seed(training.seed)
    unet = UNetSpatioTemporalConditionModel(**CONFIG)
    start_as_identity(unet)
    if folder.exists():
        unet = UNetSpatioTemporalConditionModel.from_pretrained(folder)
    use_original_group_norm(unet)
    for_training(unet, device, compiled)

    def when_saved(step: int, average: Average) -> None:
        averaged = use_original_group_norm(export(folder, average))
        loss = held_out_loss(for_training(averaged, device, compiled=False), test_pool)
        report({"stage": "unet", "step": step, "held_out_loss": loss}, training.log)

    training.run(unet, lambda number: _training_step(unet, train_pool, batch), when_saved)
