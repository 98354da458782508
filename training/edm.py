"""SVD's preconditioning, EDM with v-prediction, and the loss that goes with it.

With noise level σ the network sees `x / sqrt(σ² + 1)` and the time `ln(σ) / 4`, and predicts v:
`denoised = x / (σ² + 1) − v·σ / sqrt(σ² + 1)`. The loss weighs `(denoised − clip)²` by `(σ² + 1) / σ²`, which makes it
the error of v itself.

Karras et al., arXiv 2206.00364; SVD: Blattmann et al., arXiv 2311.15127, appendix D.
"""

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
    """The network's time of a noise level."""
    return 0.25 * torch.log(sigma)


def denoise(prediction: torch.Tensor, noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Denoised latents [batch, frames, 4, h, w] from the network's v and its noisy latents, of the same shape."""
    sigma = per_clip(sigma)
    return noisy / (sigma**2 + 1) - prediction * sigma / torch.sqrt(sigma**2 + 1)


def clip_losses(denoised: torch.Tensor, target: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Loss of each clip, [batch]: the weighted square error, averaged over the clip."""
    weight = (1 + sigma**2) / sigma**2
    return weight * ((denoised - target) ** 2).flatten(1).mean(dim=1)
