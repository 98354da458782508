"""The demo model's backward motion: `training/fine_tune.py`'s method on encoded clips that lie in memory.

Equations and trained matrices are those of `training/model.py`. The command fine_tune.py encodes videos from disk and
adds noise of its own to every keyframe; here the clips are those of the UNet's training, with all their noise levels.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

from ...training.model import BackwardMotionModel
from ...training.svd import load_unet
from ...weights.backward_motion import write_backward_motion
from ...weights.keys.unet import diffusers_to_comfy
from .loop import report
from .networks import autocast, quicken
from .unet import TIME_IDS, sigmas_of_quantiles

MAPS = ("rotated", "own")
WARM_UP = 10
HELD_OUT_EVERY = 50
"""Steps between two looks at the loss on held-out clips."""


def _batch(pool: dict[str, torch.Tensor], pick: torch.Tensor, sigma: torch.Tensor) -> dict[str, torch.Tensor]:
    """Arguments of BackwardMotionModel, without the noise."""
    return {
        "latents": pool["latents"][pick],
        "sigma": sigma,
        "first_latent": pool["first"][pick],
        "last_latent": pool["last"][pick],
        "first_embedding": pool["embed_first"][pick][:, None],
        "last_embedding": pool["embed_last"][pick][:, None],
        "time_ids": sigma.new_tensor(TIME_IDS).expand(len(sigma), 3),
    }


@torch.no_grad()
def held_out_losses(model: BackwardMotionModel, pool: dict[str, torch.Tensor], maps: str) -> torch.Tensor:
    """The loss of each held-out clip, reversed, `[clips]`, with fixed noises and evenly spread noise levels."""
    count, device = len(pool["latents"]), pool["latents"].device
    noise = torch.randn(pool["latents"].shape, generator=torch.Generator().manual_seed(1)).to(device)
    sigma = sigmas_of_quantiles((torch.arange(count) + 0.5) / count).to(device)
    parts = torch.arange(count, device=device).split(64)
    with autocast(device):
        return torch.cat([model(**_batch(pool, part, sigma[part]), noise=noise[part], maps=maps) for part in parts])


def fine_tune(
    base: Path,
    out: Path,
    train_pool: dict[str, torch.Tensor],
    test_pool: dict[str, torch.Tensor],
    steps: int,
    maps: str,
    seed: int,
    batch: int = 64,
    learning_rate: float = 2e-3,
) -> Path:
    """Trains the backward motion of the diffusers folder `base` and writes it and its log; returns the file in `out`.

    The log, beside the file, is as `training/fine_tune.py` writes it.
    """
    device = train_pool["latents"].device
    model = BackwardMotionModel(quicken(load_unet(base)), maps).to(device)
    model.unet.to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=1e-2)
    generator = torch.Generator(device).manual_seed(seed)
    path = out / f"backward_motion_{maps}_{seed}.safetensors"
    log = path.with_suffix(".jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    report({"event": "start", "settings": {"maps": maps, "seed": seed, "steps": steps, "batch": batch}}, log)
    report({"step": 0, **{f"base_{way}": _spread(held_out_losses(model, test_pool, way)) for way in MAPS}}, log)
    for step in range(steps):
        rate = learning_rate * min(1, (step + 1) / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        for group in optimiser.param_groups:
            group["lr"] = rate
        pick = torch.randint(len(train_pool["latents"]), (batch,), generator=generator, device=device)
        quantiles = torch.arange(batch, device=device) + torch.rand(batch, generator=generator, device=device)
        sigma = sigmas_of_quantiles((quantiles / batch).clamp(1e-4, 1 - 1e-4))
        noise = torch.randn(train_pool["latents"][pick].shape, generator=generator, device=device)
        with autocast(device):
            loss = model(**_batch(train_pool, pick, sigma), noise=noise).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if (step + 1) % HELD_OUT_EVERY == 0 or step + 1 == steps:
            loss = _spread(held_out_losses(model, test_pool, maps))
            report({"event": "held-out", "step": step + 1, "loss": loss}, log)
    _write(model, base, path, maps)
    return path


def _spread(losses: torch.Tensor) -> dict[str, object]:
    """Mean, half of the 95 % interval, and every clip, as `training/batches.py` logs them."""
    half = 1.96 * float(losses.std()) / len(losses) ** 0.5
    return {"mean": float(losses.mean()), "plus_minus": half, "clips": losses.tolist()}


def _write(model: BackwardMotionModel, base: Path, path: Path, maps: str) -> None:
    names = diffusers_to_comfy(model.unet.state_dict())
    differences = {names[name]: tensor for name, tensor in model.differences().items()}
    frames = str(model.unet.config["num_frames"])
    metadata = {"base": base.name, "frames": frames, "source": "", "license": "GPL-3.0-or-later"}
    write_backward_motion(path, differences, {**metadata, "temporal_attention": maps}, overwrite=True)
