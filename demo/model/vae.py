"""The demo model's VAE: SVD's AutoencoderKLTemporalDecoder with few channels, trained from scratch."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLTemporalDecoder
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D, SpatioTemporalResBlock, TemporalResnetBlock

from ..world.world import make_clips
from .clips import frames_of
from .parallel import average_gradients, rank, report

logger = logging.getLogger(__name__)

CONFIG = {
    "block_out_channels": (64, 64, 64, 128),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "sample_size": 64,
    "scaling_factor": 0.18215,
    "force_upcast": True,
}
LATENT_NOISE = 0.08
"""Noise on the latents while training, relative to their unit size: neighbouring latents must decode alike."""
CROP_SHARE = 0.8
"""Until this share of the time the encoder's training sees crops around the objects, then whole frames."""
SPATIAL_SHARE = 0.8
"""Until this share of the time the decoder is trained without its temporal layers."""


def use_layers(vae: AutoencoderKLTemporalDecoder, fine: bool, temporal: bool) -> None:
    """Leaves out layers that start as the identity and cost most, or puts them back.

    `fine`: use the resnets at full and, in the encoder, half resolution; `temporal`: the decoder's temporal layers.
    """
    blocks = [*vae.encoder.down_blocks[:2], vae.decoder.up_blocks[3], *vae.decoder.up_blocks[2].resnets[1:]]
    fine_resnets = {m for block in blocks for m in block.modules() if isinstance(m, ResnetBlock2D)}
    for module in vae.modules():
        module.__dict__.pop("forward", None)
        if isinstance(module, ResnetBlock2D) and module in fine_resnets and not fine:
            module.forward = _shortcut_only(module)
        if isinstance(module, SpatioTemporalResBlock) and not temporal:
            module.forward = _spatial_only(module)


def _shortcut_only(block: ResnetBlock2D) -> Callable:
    def forward(hidden_states, temb=None):
        return hidden_states if block.conv_shortcut is None else block.conv_shortcut(hidden_states)

    return forward


def _spatial_only(block: SpatioTemporalResBlock) -> Callable:
    def forward(hidden_states, temb=None, image_only_indicator=None):
        return block.spatial_res_block(hidden_states, temb)

    return forward


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
    # The last GroupNorms have two channels a group: opposite offsets keep brightness and contrast from being lost.
    for layer in (model.encoder.down_blocks[2].downsamplers[0].conv, model.decoder.up_blocks[2].upsamplers[0].conv):
        with torch.no_grad():
            layer.bias.copy_(torch.tensor((1.0, -1.0)).repeat(layer.out_channels // 2))


def reconstruction_loss(decoded: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """L1 + 2 MSE + the L1 of horizontal and vertical differences + the L1 of 4x4 means.

    Pictures `[n, 3, h, w]` in [-1, 1].
    """
    error = decoded - frames
    edges = (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()) / 2
    # Few pixels are as colourful as an object, and four latent channels have to be told that colour matters.
    colour = F.avg_pool2d(error, 4).abs().mean()
    return error.abs().mean() + 2 * error.square().mean() + edges + colour


class SketchDecoder(torch.nn.Module):
    """A cheap decoder, at latent resolution up to its last layer, that stands in while the encoder is trained."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(4, width, 3, padding=1),
            torch.nn.SiLU(),
            torch.nn.Conv2d(width, width, 3, padding=1),
            torch.nn.SiLU(),
            torch.nn.Conv2d(width, width, 1),
            torch.nn.SiLU(),
            torch.nn.Conv2d(width, 192, 3, padding=1),
            torch.nn.PixelShuffle(8),
        )
        self.linear = torch.nn.Sequential(torch.nn.Conv2d(4, 192, 3, padding=1), torch.nn.PixelShuffle(8))

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """`[n, 4, h, w]` to `[n, 3, 8h, 8w]`."""
        return self.layers(latents) + self.linear(latents)


def _encoder_step(
    vae: AutoencoderKLTemporalDecoder, sketch: SketchDecoder, frames: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and reconstruction error of pictures `[n, 3, h, w]` through the stand-in decoder."""
    distribution = vae.encode(frames).latent_dist
    mean = distribution.mean
    decoded = sketch(mean + LATENT_NOISE * torch.randn_like(mean))
    spread = (distribution.logvar - 2 * math.log(LATENT_NOISE)).square().mean()
    # Pulls the latents to unit size; weak, so that the pictures decide.
    size = (mean.square().mean() - 1).square() + mean.mean().square()
    return reconstruction_loss(decoded, frames) + 1e-2 * size + 1e-3 * spread, F.mse_loss(decoded, frames).detach()


def _decoder_step(
    vae: AutoencoderKLTemporalDecoder, frames: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same through SVD's decoder, with the encoder fixed; `[clips * count, 3, h, w]`."""
    with torch.no_grad():
        latents = vae.encode(frames).latent_dist.mode()
        latents = latents + LATENT_NOISE / vae.config.scaling_factor * torch.randn_like(latents)
    decoded = vae.decoder(latents, num_frames=count, image_only_indicator=torch.zeros(len(frames) // count, count))
    return reconstruction_loss(decoded, frames), F.mse_loss(decoded, frames).detach()


def normalise_latents(vae: AutoencoderKLTemporalDecoder, frames: torch.Tensor) -> float:
    """Folds a factor into the first and last layers so that latents × scaling factor have unit standard deviation.

    Returns the factor.
    """
    with torch.no_grad():
        std = vae.encode(frames).latent_dist.mean.std()
        factor = 1 / (vae.config.scaling_factor * std)
        mean_rows, variance_rows = slice(0, 4), slice(4, 8)
        vae.quant_conv.weight[mean_rows] *= factor
        vae.quant_conv.bias[mean_rows] *= factor
        vae.quant_conv.bias[variance_rows] += 2 * factor.log()
        vae.decoder.conv_in.weight /= factor
    return float(factor)


class FrameSource:
    """Endless training pictures of the small world.

    Most of a picture is smooth ground, so early training looks at crops around the moving objects only: they cost a
    quarter of a whole frame and hold all that is hard.
    """

    def __init__(self, first: int = 0, pool: int = 192) -> None:
        self.pool, self.used, self.left = pool, first, 0

    def _refresh(self, needed: int) -> None:
        if self.left < needed:
            clips = make_clips(list(range(self.used, self.used + self.pool)))
            self.frames = frames_of(clips)
            self.centres = torch.stack([clip.motion.centre[0] for clip in clips])
            self.used, self.left = self.used + self.pool, 4 * self.pool
        self.left -= needed

    def crops(self, count: int, side: int = 32, jitter: int = 9) -> torch.Tensor:
        """`[count, 3, side, side]` around the main object, give or take `jitter` pixels."""
        self._refresh(count)
        clip, frame = torch.randint(self.pool, (count,)), torch.randint(self.frames.shape[1], (count,))
        corner = self.centres[clip, frame].round().long() - side // 2 + torch.randint(-jitter, jitter + 1, (count, 2))
        corner = corner.clamp(0, self.frames.shape[-1] - side)
        return torch.stack(
            [
                self.frames[c, f, :, y : y + side, x : x + side]
                for c, f, (x, y) in zip(clip, frame, corner.tolist(), strict=True)
            ]
        )

    def clips(self, count: int) -> torch.Tensor:
        """`[count * frames, 3, h, w]`."""
        self._refresh(4 * count)
        return self.frames[torch.randint(self.pool, (count,))].flatten(0, 1)

    def single_frames(self, count: int) -> torch.Tensor:
        """`[count, 3, h, w]`."""
        self._refresh(count)
        return self.frames[torch.randint(self.pool, (count,)), torch.randint(self.frames.shape[1], (count,))]


def train_vae(
    folder: Path, minutes: float, learning_rate: float = 2e-3, log_path: Path | None = None, seed: int = 0
) -> None:
    """Trains the encoder, with a stand-in for the decoder, and saves the VAE in `folder`.

    Runs alone or in every process of `parallel.launch`.
    """
    torch.manual_seed(seed)
    vae, sketch = AutoencoderKLTemporalDecoder(**CONFIG), SketchDecoder()
    start_as_identity(vae)
    use_layers(vae, fine=False, temporal=False)
    source = FrameSource(first=rank() * 500_000)
    parameters = [*vae.encoder.parameters(), *vae.quant_conv.parameters(), *sketch.parameters()]

    def step(elapsed: float) -> tuple[torch.Tensor, torch.Tensor]:
        frames = source.crops(24) if elapsed < CROP_SHARE else source.single_frames(8)
        return _encoder_step(vae, sketch, frames)

    _train(step, parameters, minutes, learning_rate, log_path, seed, "encoder")
    if rank() == 0:
        use_layers(vae, fine=True, temporal=True)
        factor = normalise_latents(vae.eval(), source.frames[:32].flatten(0, 1))
        logger.info("vae: latents scaled by %.3f", factor)
        vae.save_pretrained(folder)


def train_decoder(
    folder: Path, minutes: float, learning_rate: float = 2e-3, log_path: Path | None = None, seed: int = 10
) -> None:
    """Trains SVD's decoder on the fixed encoder's latents; goes on from what `folder` holds, and replaces it.

    The latents stay as they are, so this may run before, after or beside the training of the UNet.
    """
    vae = AutoencoderKLTemporalDecoder.from_pretrained(folder)
    parameters = list(vae.decoder.parameters())
    source = FrameSource(first=rank() * 500_000 + 250_000)

    def step(elapsed: float) -> tuple[torch.Tensor, torch.Tensor]:
        temporal = elapsed > SPATIAL_SHARE
        use_layers(vae, fine=False, temporal=temporal)
        if temporal:
            return _decoder_step(vae, source.clips(1), 8)
        return _decoder_step(vae, source.crops(12) if elapsed < SPATIAL_SHARE / 2 else source.single_frames(4), 1)

    _train(step, parameters, minutes, learning_rate, log_path, seed, "decoder")
    if rank() == 0:
        use_layers(vae, fine=True, temporal=True)
        vae.eval().save_pretrained(folder)


def _train(
    take_step: Callable,
    parameters: list[torch.nn.Parameter],
    minutes: float,
    learning_rate: float,
    log_path: Path | None,
    seed: int,
    stage: str,
) -> None:
    """AdamW for so many minutes, the rate falling linearly to zero."""
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    torch.manual_seed(seed + 1 + rank())
    began, step, elapsed = time.time(), 0, 0.0
    while elapsed < 1:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * min(1, (step + 1) / 30) * max(1 - elapsed, 0.01)
        loss, error = take_step(elapsed)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        elapsed, total, squared = average_gradients(
            parameters, (time.time() - began) / (minutes * 60), float(loss.detach()), float(error)
        )
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        if step % 25 == 0 and rank() == 0:
            report(
                {
                    "stage": stage,
                    "step": step,
                    "loss": total,
                    "psnr": 10 * math.log10(4 / squared),
                    "seconds": round(time.time() - began, 1),
                },
                log_path,
            )
