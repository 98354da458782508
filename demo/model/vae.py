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
from .loop import Training, report
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
CROP_SIDE, CROP_SHARE = 64, 0.75
"""Most of a picture is smooth ground: until this share of the steps only squares of this side around objects are seen,
which cost a quarter of whole frames, then whole frames."""
LEARNING_RATE = {"vae": 2e-3, "decoder": 1e-3}


class Unchanged(ResnetBlock2D):
    """A block that leaves its input alone."""

    def forward(self, input_tensor, temb=None):
        """`input_tensor`."""
        return input_tensor


def leave_out_finest_layers(vae: AutoencoderKLTemporalDecoder) -> None:
    """Leaves out the encoder's blocks at full resolution, half of its arithmetic: they stay the identity."""
    for block in vae.encoder.down_blocks[0].resnets:
        block.__class__ = Unchanged


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


def train_vae(training: Training, folder: Path, device: torch.device, compiled: bool = False, batch: int = 32) -> None:
    """Trains encoder and decoder on single frames and saves the VAE in `folder`; `batch`: crops in a step."""
    torch.manual_seed(training.seed)
    vae = AutoencoderKLTemporalDecoder(**CONFIG)
    start_as_identity(vae)
    use_temporal_layers(vae, False)
    leave_out_finest_layers(vae)
    for_training(vae, device, compiled)
    pictures, whole = Pictures(VAE_SEED, device), max(1, batch // 4)

    def step(number: int) -> dict[str, torch.Tensor]:
        if number < CROP_SHARE * training.steps:
            return _autoencoder_step(vae, pictures.crops(number, batch, CROP_SIDE).flatten(0, 1))
        return _autoencoder_step(vae, pictures.single_frames(number, whole)[0])

    # The temporal layers have no gradient, and the optimisers leave what has none alone.
    training.run(vae, step)
    frames = torch.cat([pictures.single_frames(training.steps + 1 + number, 8)[0] for number in range(16)])
    factors = normalise_latents(vae.eval(), frames)
    logger.info("vae: latents scaled by %s", factors.tolist())
    _save(vae, folder)


def train_decoder(
    training: Training, folder: Path, device: torch.device, compiled: bool = False, batch: int = 4
) -> None:
    """Trains the decoder of the VAE in `folder`, with its temporal layers, on clips, and replaces it.

    `batch`: crops of clips in a step. The latents stay as they are, so this may run before, after or beside the
    training of the UNet.
    """
    vae = AutoencoderKLTemporalDecoder.from_pretrained(folder)
    leave_out_finest_layers(vae)
    for_training(vae, device, compiled).requires_grad_(False)
    vae.decoder.requires_grad_(True)
    pictures, whole = Pictures(VAE_SEED + 20_000_000, device), max(1, batch // 4)

    def step(number: int) -> dict[str, torch.Tensor]:
        cropped = number < CROP_SHARE * training.steps
        clips = pictures.clip_crops(number, batch, CROP_SIDE) if cropped else pictures.clips(number, whole)
        return _decoder_step(vae, clips.flatten(0, 1))

    training.run(vae, step)
    _save(vae, folder)
    report({"stage": "decoder", "held_out_psnr": held_out_psnr(vae.eval())}, training.log)


def _save(vae: AutoencoderKLTemporalDecoder, folder: Path) -> None:
    """Saves the weights as a diffusers folder."""
    plain = AutoencoderKLTemporalDecoder(**CONFIG)
    plain.load_state_dict({name: value.cpu().contiguous() for name, value in vae.state_dict().items()})
    plain.save_pretrained(folder)
