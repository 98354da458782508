"""The continuous (EDM) v-parametrisation of SVD, and the training loss."""

from __future__ import annotations

import torch


def per_clip(sigma: torch.Tensor) -> torch.Tensor:
    """Noise levels [batch] shaped to multiply clips [batch, frames, channels, h, w]."""
    return sigma.reshape(-1, 1, 1, 1, 1)


def network_input(noisy: torch.Tensor, sigma: torch.Tensor, keyframe_latent: torch.Tensor) -> torch.Tensor:
    """What the UNet sees: scaled noisy latents beside the keyframe's latent.

    noisy: [batch, frames, 4, h, w]; sigma: [batch]; keyframe_latent: [batch, 4, h, w], not multiplied by the VAE's
    scaling factor. Returns [batch, frames, 8, h, w].
    """
    scaled = noisy / torch.sqrt(per_clip(sigma) ** 2 + 1)
    repeated = keyframe_latent.unsqueeze(1).expand(-1, noisy.shape[1], -1, -1, -1)
    return torch.cat([scaled, repeated.to(scaled.dtype)], dim=2)


def network_time(sigma: torch.Tensor) -> torch.Tensor:
    """The network's time of a noise level: 0.25 ln(sigma)."""
    return 0.25 * torch.log(sigma)


def denoise(prediction: torch.Tensor, noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Denoised latents from the network's v: x / (sigma^2 + 1) - v sigma / sqrt(sigma^2 + 1)."""
    sigma = per_clip(sigma)
    return noisy / (sigma**2 + 1) - prediction * sigma / torch.sqrt(sigma**2 + 1)


def clip_losses(denoised: torch.Tensor, target: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Loss of each clip, [batch]: the mean over a clip of (1 + sigma^2) / sigma^2 (denoised - target)^2."""
    weight = (1 + sigma**2) / sigma**2
    return weight * ((denoised - target) ** 2).flatten(1).mean(dim=1)
