"""The demo model's VAE: SVD's AutoencoderKLTemporalDecoder with few channels, trained from scratch."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLTemporalDecoder
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D, SpatioTemporalResBlock, TemporalResnetBlock

from ..world.world import FRAMES, make_frames
from .clips import HELD_OUT_SEED, VAE_SEED, Pictures
from .loop import report, train
from .networks import autocast, for_training

logger = logging.getLogger(__name__)

CONFIG = {
    "block_out_channels": (64, 64, 128, 128),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "sample_size": 128,
    "scaling_factor": 0.18215,
    "force_upcast": True,
}
LATENT_NOISE = 0.04
"""Noise on the latents while training, relative to their unit size: neighbouring latents must decode alike."""
SINGLE_SHARE, CROP_SHARE = 0.55, 0.3
"""Until these shares of the time: encoder and decoder are trained on single frames; and these are crops of frames. Then
the decoder alone learns to use a frame's neighbours."""
CROPS, FRAMES_AT_ONCE, CLIPS = 128, 40, 5


class SpatialBlock(SpatioTemporalResBlock):
    """A block without its temporal half, for single frames."""

    def forward(self, hidden_states, temb=None, image_only_indicator=None):
        """The spatial half alone."""
        return self.spatial_res_block(hidden_states, temb)


def use_temporal_layers(vae: AutoencoderKLTemporalDecoder, used: bool) -> None:
    """Leaves out the decoder's temporal layers, or puts them back."""
    for module in vae.decoder.modules():
        if isinstance(module, SpatioTemporalResBlock):
            module.__class__ = SpatioTemporalResBlock if used else SpatialBlock


def start_as_identity(model: AutoencoderKLTemporalDecoder) -> None:
    """Zeroes the last layer of every residual branch (resnets, attention), so that training starts shallow."""
    for module in model.modules():
        if isinstance(module, (ResnetBlock2D, TemporalResnetBlock)):
            torch.nn.init.zeros_(module.conv2.weight)
            torch.nn.init.zeros_(module.conv2.bias)
        if isinstance(module, Attention):
            torch.nn.init.zeros_(module.to_out[0].weight)
            torch.nn.init.zeros_(module.to_out[0].bias)
    # Blends neighbouring frames; nothing is known about them while single frames are trained.
    torch.nn.init.dirac_(model.decoder.time_conv_out.weight)
    torch.nn.init.zeros_(model.decoder.time_conv_out.bias)
    # The last GroupNorms have few channels a group: opposite offsets keep brightness and contrast from being lost.
    for layer in (model.encoder.down_blocks[2].downsamplers[0].conv, model.decoder.up_blocks[2].upsamplers[0].conv):
        with torch.no_grad():
            layer.bias.copy_(torch.tensor((1.0, -1.0)).repeat(layer.out_channels // 2))


def reconstruction_loss(decoded: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """L1 + 4 MSE + the L1 of horizontal and vertical differences + the L1 of 4x4 means.

    Pictures `[n, 3, h, w]` in [-1, 1].
    """
    error = decoded - frames
    edges = (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()) / 2
    # Few pixels are as colourful as an object, and four latent channels have to be told that colour matters.
    colour = F.avg_pool2d(error, 4).abs().mean()
    return error.abs().mean() + 4 * error.square().mean() + edges + colour


def _autoencoder_step(vae: AutoencoderKLTemporalDecoder, frames: torch.Tensor) -> dict[str, torch.Tensor]:
    """Losses of single frames `[n, 3, h, w]` through encoder and decoder."""
    with autocast(frames.device):
        distribution = vae.encode(frames).latent_dist
        mean, logvar = distribution.mean.float(), distribution.logvar.float()
        latents = mean + LATENT_NOISE * torch.randn_like(mean)
        decoded = vae.decoder(latents, num_frames=1, image_only_indicator=_no_single_images(len(frames), 1, frames))
    error = reconstruction_loss(decoded.float(), frames)
    # Pull the latents to unit size in every channel, and the spread to that of the noise; weak: the pictures decide.
    size = (mean.square().mean((0, 2, 3)) - 1).square().mean() + mean.mean((0, 2, 3)).square().mean()
    spread = (logvar / 2 - torch.tensor(LATENT_NOISE).log()).square().mean()
    squared = F.mse_loss(decoded.detach().float(), frames)
    return {"loss": error + 1e-2 * size + 1e-4 * spread, "mse": squared, "size": size}


def _decoder_step(vae: AutoencoderKLTemporalDecoder, frames: torch.Tensor) -> dict[str, torch.Tensor]:
    """Losses of clips `[clips * frames, 3, h, w]`, with the encoder fixed."""
    with autocast(frames.device):
        with torch.no_grad():
            latents = vae.encode(frames).latent_dist.mode().float()
            latents = latents + LATENT_NOISE / vae.config.scaling_factor * torch.randn_like(latents)
        nowhere = _no_single_images(len(frames) // FRAMES, FRAMES, frames)
        decoded = vae.decoder(latents, num_frames=FRAMES, image_only_indicator=nowhere)
    error = reconstruction_loss(decoded.float(), frames)
    # What flickers is seen sooner than what is wrong in every frame.
    wrong = (decoded.float() - frames).unflatten(0, (-1, FRAMES))
    flicker = wrong.diff(dim=1).abs().mean()
    return {"loss": error + flicker, "mse": wrong.detach().square().mean(), "flicker": flicker}


def _no_single_images(clips: int, frames: int, like: torch.Tensor) -> torch.Tensor:
    return torch.zeros(clips, frames, device=like.device)


@torch.no_grad()
def normalise_latents(vae: AutoencoderKLTemporalDecoder, frames: torch.Tensor) -> torch.Tensor:
    """Folds factors into the first and last layers so that latents × scaling factor have unit standard deviation.

    Every channel has its own factor; returns them, `[4]`.
    """
    with autocast(frames.device):
        std = vae.encode(frames).latent_dist.mean.float().std((0, 2, 3))
    factor = 1 / (vae.config.scaling_factor * std)
    mean_rows, variance_rows = slice(0, 4), slice(4, 8)
    vae.quant_conv.weight[mean_rows] *= factor.view(-1, 1, 1, 1)
    vae.quant_conv.bias[mean_rows] *= factor
    vae.quant_conv.bias[variance_rows] += 2 * factor.log()
    vae.decoder.conv_in.weight /= factor.view(1, -1, 1, 1)
    return factor


@torch.no_grad()
def reconstruct(vae: AutoencoderKLTemporalDecoder, frames: torch.Tensor) -> torch.Tensor:
    """Clips in [0, 1], `[n, frames, 3, h, w]`, through the VAE."""
    results = []
    for clip in frames * 2 - 1:
        latents = vae.encode(clip).latent_dist.mode()
        results.append(vae.decode(latents, num_frames=len(clip)).sample)
    return ((torch.stack(results) + 1) / 2).clamp(0, 1)


def held_out_psnr(vae: AutoencoderKLTemporalDecoder, clips: int = 64) -> float:
    """Mean over held-out frames of the peak signal-to-noise ratio of their reconstructions, in dB."""
    seeds = torch.arange(HELD_OUT_SEED, HELD_OUT_SEED + clips, device=vae.device)
    frames = make_frames(seeds, "test")
    squared = (reconstruct(vae, frames) - frames).square().flatten(2).mean(2)
    return float(-10 * squared.log10().mean())


def train_vae(
    folder: Path,
    seconds: float,
    device: torch.device,
    compiled: bool = False,
    learning_rate: float = 2e-3,
    log: Path | None = None,
    seed: int = 0,
) -> None:
    """Trains the VAE for so many seconds and saves it in `folder`."""
    torch.manual_seed(seed)
    vae = AutoencoderKLTemporalDecoder(**CONFIG)
    start_as_identity(vae)
    use_temporal_layers(vae, False)
    for_training(vae, device, compiled)
    pictures = Pictures(VAE_SEED, device)

    def first_step(share: float) -> dict[str, torch.Tensor]:
        cropped = share * SINGLE_SHARE < CROP_SHARE
        frames = pictures.crops(CROPS) if cropped else pictures.single_frames(FRAMES_AT_ONCE)[0]
        return _autoencoder_step(vae, frames)

    # The temporal layers have no gradient yet, and the optimisers leave what has none alone.
    train("vae", first_step, vae.named_parameters(), seconds * SINGLE_SHARE, learning_rate, log)
    factors = normalise_latents(vae.eval(), torch.cat([pictures.clips(4) for _ in range(8)]))
    logger.info("vae: latents scaled by %s", factors.tolist())
    use_temporal_layers(vae, True)
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)

    def second_step(share: float) -> dict[str, torch.Tensor]:
        return _decoder_step(vae, pictures.clips(CLIPS))

    decoder = [(name, value) for name, value in vae.named_parameters() if name.startswith("decoder.")]
    train("vae decoder", second_step, decoder, seconds * (1 - SINGLE_SHARE), learning_rate / 2, log)
    save_vae(vae, folder)
    report({"stage": "vae", "held_out_psnr": held_out_psnr(AutoencoderKLTemporalDecoder.from_pretrained(folder))}, log)


def save_vae(vae: AutoencoderKLTemporalDecoder, folder: Path) -> None:
    """Saves the weights as a diffusers folder."""
    plain = AutoencoderKLTemporalDecoder(**CONFIG)
    plain.load_state_dict({name: value.cpu().contiguous() for name, value in vae.state_dict().items()})
    plain.save_pretrained(folder)
