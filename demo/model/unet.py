"""The demo model's UNet: SVD's UNetSpatioTemporalConditionModel with few channels, trained from scratch as SVD is.

Preconditioning and loss are those of `training/edm.py`. Some clips lose their conditioning, so that guidance works.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.resnet import ResnetBlock2D, TemporalResnetBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from safetensors.torch import load_file

from ...training import edm
from ...training.svd import use_original_group_norm
from ...weights.files import save_tensors
from .parallel import average_gradients, rank, report, size

logger = logging.getLogger(__name__)

CONFIG = {
    "block_out_channels": (64, 64, 64, 64),
    "num_attention_heads": (1, 1, 1, 1),
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
    "sample_size": 8,
}
TIME_IDS = (6.0, 127.0, 0.02)
"""fps − 1, motion bucket, noise augmentation: constants here."""
SIGMA_LOG_MEAN, SIGMA_LOG_STD = 0.7, 1.4
CONDITIONING_DROPOUT = 0.1
EMA_DECAY = 0.997
WARM_UP = 100
"""Steps in which the learning rate rises."""


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


def shorten_cross_attention(unet: UNetSpatioTemporalConditionModel) -> None:
    """Leaves out what a context of one token makes superfluous: its softmax is 1, so queries do not matter."""
    for module in unet.modules():
        if getattr(module, "attn2", None) is not None:
            module.norm2.forward = lambda hidden_states: hidden_states
            module.attn2.forward = _single_token_attention(module.attn2)


def quicken_temporal_convolutions(unet: UNetSpatioTemporalConditionModel) -> None:
    """Computes the convolutions over time, (3, 1, 1), as two-dimensional ones, for which a CPU has faster kernels."""
    for module in unet.modules():
        if isinstance(module, torch.nn.Conv3d) and module.kernel_size == (3, 1, 1):
            module.forward = _temporal_convolution(module)


def _temporal_convolution(layer: torch.nn.Conv3d) -> Callable:
    def forward(hidden_states):
        flat = torch.nn.functional.conv2d(hidden_states.flatten(3), layer.weight[..., 0], layer.bias, padding=(1, 0))
        return flat.unflatten(3, hidden_states.shape[3:])

    return forward


def _single_token_attention(attention: torch.nn.Module) -> Callable:
    def forward(hidden_states, encoder_hidden_states=None, **_):
        return attention.to_out[0](attention.to_v(encoder_hidden_states))

    return forward


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
    time_ids = torch.tensor(TIME_IDS).expand(len(noisy), 3)
    v = unet(sample, edm.network_time(sigma), encoder_hidden_states=embed[:, None], added_time_ids=time_ids).sample
    return edm.denoise(v, noisy, sigma)


@torch.no_grad()
def held_out_loss(unet: UNetSpatioTemporalConditionModel, pool: dict[str, torch.Tensor], clips: int = 64) -> float:
    """The loss on held-out clips with fixed noises and noise levels spread evenly over the training distribution."""
    generator = torch.Generator().manual_seed(0)
    quantiles = (torch.arange(clips) + 0.5) / clips
    sigma = (SIGMA_LOG_MEAN + SIGMA_LOG_STD * math.sqrt(2) * torch.erfinv(2 * quantiles - 1)).exp()
    losses = []
    for start in range(0, clips, 16):
        part = slice(start, start + 16)
        latents, s = pool["latents"][part], sigma[part]
        noise = torch.randn(latents.shape, generator=generator)
        noisy = latents + noise * edm.per_clip(s)
        denoised = denoise(unet, noisy, s, pool["first"][part], pool["embed_first"][part])
        losses.append(edm.clip_losses(denoised, latents, s))
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
    sigmas = torch.cat((sigmas, torch.zeros(1)))
    n, _, height, width = image.shape
    x = torch.randn((n, frames, 4, height, width), generator=torch.Generator().manual_seed(seed))
    x = x * (sigmas[0] ** 2 + 1).sqrt()
    for sigma, following in itertools.pairwise(sigmas):
        level = sigma.expand(n)
        denoised = denoise(unet, x, level, image, embed)
        if guidance != 1:
            without = denoise(unet, x, level, torch.zeros_like(image), torch.zeros_like(embed))
            denoised = without + guidance * (denoised - without)
        x = x + (x - denoised) / sigma * (following - sigma)
    return x


def _training_loss(unet: UNetSpatioTemporalConditionModel, pool: dict[str, torch.Tensor], batch: int) -> torch.Tensor:
    """The loss on a random batch, with the conditioning of some clips dropped."""
    pick = torch.randint(len(pool["latents"]), (batch,))
    latents = pool["latents"][pick]
    sigma = (SIGMA_LOG_MEAN + SIGMA_LOG_STD * torch.randn(batch)).exp()
    keep = (torch.rand(batch) >= CONDITIONING_DROPOUT).float()
    noisy = latents + torch.randn_like(latents) * edm.per_clip(sigma)
    image, embed = pool["first"][pick] * keep.view(-1, 1, 1, 1), pool["embed_first"][pick] * keep.view(-1, 1)
    return edm.clip_losses(denoise(unet, noisy, sigma, image, embed), latents, sigma).mean()


def _save_checkpoint(
    path: Path,
    unet: UNetSpatioTemporalConditionModel,
    ema: dict[str, torch.Tensor],
    optimisers: list[torch.optim.Optimizer],
    step: int,
    elapsed: float,
) -> None:
    tensors = {f"unet.{k}": v for k, v in unet.state_dict().items()} | {f"ema.{k}": v for k, v in ema.items()}
    for number, optimiser in enumerate(optimisers):
        for index, state in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{number}.{index}.{name}": value for name, value in state.items()}
    tensors |= {"step": torch.tensor(step), "elapsed": torch.tensor(elapsed, dtype=torch.float64)}
    save_tensors(path, tensors, {}, overwrite=True)


def _load_checkpoint(
    path: Path,
    unet: UNetSpatioTemporalConditionModel,
    ema: dict[str, torch.Tensor],
    optimisers: list[torch.optim.Optimizer],
) -> tuple[int, float]:
    tensors = load_file(path)
    unet.load_state_dict({k[5:]: v for k, v in tensors.items() if k.startswith("unet.")})
    for name in ema:
        ema[name].copy_(tensors[f"ema.{name}"])
    states: list[dict[int, dict[str, torch.Tensor]]] = [{} for _ in optimisers]
    for key in (k for k in tensors if k.startswith("optimiser.")):
        _, number, index, name = key.split(".")
        states[int(number)].setdefault(int(index), {})[name] = tensors[key]
    for optimiser, state in zip(optimisers, states, strict=True):
        optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
    return int(tensors["step"]), float(tensors["elapsed"])


def export(folder: Path, unet: UNetSpatioTemporalConditionModel, ema: dict[str, torch.Tensor]) -> None:
    """Saves the averaged weights as a diffusers folder."""
    averaged = UNetSpatioTemporalConditionModel(**CONFIG)
    averaged.load_state_dict(ema)
    # By hand: diffusers writes a folder of several files, which `atomic_write` cannot.
    temporary = folder.with_name(folder.name + ".part")
    averaged.save_pretrained(temporary)
    folder.mkdir(parents=True, exist_ok=True)
    for file in temporary.iterdir():
        file.replace(folder / file.name)
    temporary.rmdir()


class Muon(torch.optim.Muon):
    """torch's Muon with a step of AdamW's size (Liu et al., arXiv 2502.16982), for convolutions too.

    torch's own takes matrices alone. Here it gets each weight as the matrix `[out, in · kernel]` in the same memory.
    """

    def __init__(self, weights: list[torch.nn.Parameter], lr: float) -> None:
        self.weights = weights
        matrices = [torch.nn.Parameter(weight.detach().flatten(1)) for weight in weights]
        super().__init__(matrices, lr, weight_decay=1e-3, adjust_lr_fn="match_rms_adamw")

    def step(self, closure: Callable | None = None) -> float | None:
        """One step with the weights' gradients."""
        for weight, matrix in zip(self.weights, self.param_groups[0]["params"], strict=True):
            matrix.grad = None if weight.grad is None else weight.grad.flatten(1)
        return super().step(closure)


def _optimisers(unet: UNetSpatioTemporalConditionModel, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices and convolutions of the blocks, AdamW for the rest."""
    matrices, rest = [], []
    for name, parameter in unet.named_parameters():
        hidden = parameter.ndim > 1 and name.split(".")[0] in ("down_blocks", "mid_block", "up_blocks")
        (matrices if hidden else rest).append(parameter)
    return [
        Muon(matrices, learning_rate),
        torch.optim.AdamW(rest, lr=learning_rate, betas=(0.9, 0.99), weight_decay=1e-3, fused=True),
    ]


def train_unet(
    work: Path,
    folder: Path,
    train: dict[str, torch.Tensor],
    test: dict[str, torch.Tensor],
    minutes: float,
    batch: int = 16,
    learning_rate: float = 2e-3,
    save_every: float = 240,
    seed: int = 2,
) -> None:
    """Trains the UNet until it has had so many minutes, over all the runs that took up its checkpoint.

    `batch`: clips a step, shared out among the processes.

    The learning rate follows the time: a short warm-up, then a cosine to zero. `work` gets `unet.safetensors`
    (the state to go on from) and log lines in `log.jsonl`; `folder` the averaged weights, both every
    `save_every` seconds.
    """
    torch.manual_seed(seed)
    unet = UNetSpatioTemporalConditionModel(**CONFIG)
    use_original_group_norm(unet)
    start_as_identity(unet)
    shorten_cross_attention(unet)
    quicken_temporal_convolutions(unet)
    parameters = list(unet.parameters())
    ema = {name: value.clone() for name, value in unet.state_dict().items()}
    optimisers = _optimisers(unet, learning_rate)
    step, spent, checkpoint = 0, 0.0, work / "unet.safetensors"
    if checkpoint.exists():
        step, spent = _load_checkpoint(checkpoint, unet, ema, optimisers)
        logger.info("unet: taken up at step %d", step)
    logger.info("unet: %.2f M parameters", sum(p.numel() for p in parameters) / 1e6)
    torch.manual_seed(seed + 1000 * step + rank())
    began, saved, losses = time.time() - spent, spent, []
    elapsed = spent
    while elapsed < minutes * 60:
        rate = learning_rate * min(1, (step + 1) / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * elapsed / minutes / 60))
        for group in (group for optimiser in optimisers for group in optimiser.param_groups):
            group["lr"] = rate
        loss = _training_loss(unet, train, batch // size())
        unet.zero_grad(set_to_none=True)
        loss.backward()
        elapsed, mean_loss = average_gradients(parameters, time.time() - began, float(loss.detach()))
        if not math.isfinite(mean_loss):
            raise FloatingPointError(f"The loss is {mean_loss} at step {step}; {checkpoint} holds the last good one.")
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimiser in optimisers:
            optimiser.step()
        step += 1
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(ema.values()), list(unet.state_dict().values()), 1 - decay)
        losses.append(mean_loss)
        if step % 25 == 0 and rank() == 0:
            report(
                {
                    "stage": "unet",
                    "step": step,
                    "loss": sum(losses[-25:]) / 25,
                    "rate": rate,
                    "seconds": round(elapsed, 1),
                },
                work / "log.jsonl",
            )
        if elapsed - saved > save_every:
            saved = elapsed
            if rank() == 0:
                _save_checkpoint(checkpoint, unet, ema, optimisers, step, elapsed)
                _export_and_measure(work, folder, unet, ema, test, step, elapsed)
    if rank() == 0:
        _save_checkpoint(checkpoint, unet, ema, optimisers, step, elapsed)
        _export_and_measure(work, folder, unet, ema, test, step, elapsed)


def _export_and_measure(
    work: Path,
    folder: Path,
    unet: UNetSpatioTemporalConditionModel,
    ema: dict[str, torch.Tensor],
    test: dict[str, torch.Tensor],
    step: int,
    elapsed: float,
) -> None:
    export(folder, unet, ema)
    current = {name: value.clone() for name, value in unet.state_dict().items()}
    unet.load_state_dict(ema)
    loss = held_out_loss(unet, test)
    unet.load_state_dict(current)
    report({"stage": "unet", "step": step, "held_out_loss": loss, "seconds": round(elapsed, 1)}, work / "log.jsonl")
