"""From encoded clips on disk to the tensors of one forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from .cache import load_clip, to_images
from .draws import draw
from .encoders import encode_images
from .settings import Settings


@dataclass
class BatchMaker:
    """Loads encoded clips and adds the noise of a forward pass."""

    vae: torch.nn.Module
    settings: Settings
    device: torch.device

    def __call__(self, paths: list[Path], source: torch.Generator) -> dict[str, torch.Tensor]:
        """Arguments of BackwardMotionModel for these clips; every draw comes from `source`."""
        clips = [load_clip(path) for path in paths]
        mean, std, keyframes, embeddings = (
            torch.stack([clip[name] for clip in clips])
            for name in ("latent_mean", "latent_std", "keyframes", "embeddings")
        )
        settings = self.settings
        draws = draw(source, mean.shape, keyframes[:, 0].shape, settings.sigma_mean, settings.sigma_std)
        first_latent, last_latent = self._keyframe_latents(keyframes, draws.augmentation)
        time_ids = torch.tensor([[settings.fps - 1, settings.motion_bucket, settings.noise_augmentation]])
        tensors = {
            "latents": (mean + std * draws.latents) * self.vae.config.scaling_factor,
            "noise": draws.noise,
            "sigma": draws.sigma,
            "first_latent": first_latent,
            "last_latent": last_latent,
            "first_embedding": embeddings[:, 0],
            "last_embedding": embeddings[:, 1],
            "time_ids": time_ids.expand(len(clips), -1),
        }
        return {name: tensor.to(self.device) for name, tensor in tensors.items()}

    def _keyframe_latents(self, keyframes: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Latents [2, batch, 4, h, w] of keyframes uint8 [batch, 2, 3, height, width] with the same noise on both."""
        noisy = to_images(keyframes) + self.settings.noise_augmentation * noise.unsqueeze(1)
        latents, _ = encode_images(self.vae, noisy.transpose(0, 1).flatten(0, 1))
        return latents.unflatten(0, (2, len(keyframes)))
