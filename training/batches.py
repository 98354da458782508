"""What a forward pass sees: encoded clips from disk, and the random numbers that go with them.

Nothing is drawn from a generator that lives on: clip order, noise and noise levels of a forward pass follow from
(seed, number of the pass) alone. So a resumed run needs no generator states, and one device with two accumulated
passes sees the same numbers as two devices with one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers import AutoencoderKLTemporalDecoder

from .cache import ClipCache, Encoders, collect, load_clip, to_images
from .data import ClipShape, find_sources
from .model import BackwardMotionModel
from .settings import Settings
from .svd import ImageEmbedder, encode_images, load_vae

# What a random number is for: the order of the clips, a training step, the held-out clips.
ORDER, STEP, HELD_OUT = 0, 1, 2


def generator(seed: int, *place: int) -> torch.Generator:
    """A CPU generator for one place in a run."""
    state = np.random.SeedSequence([seed, *place]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


@lru_cache(maxsize=4)
def _shuffled(seed: int, clips: int, epoch: int) -> list[int]:
    return torch.randperm(clips, generator=generator(seed, ORDER, epoch)).tolist()


def clip_numbers(seed: int, clips: int, number: int, batch_size: int) -> list[int]:
    """The clips of forward pass `number`: the next `batch_size` of an endless run of shuffled epochs."""
    positions = range(number * batch_size, (number + 1) * batch_size)
    return [_shuffled(seed, clips, position // clips)[position % clips] for position in positions]


@dataclass(frozen=True)
class Draws:
    """Random numbers of one forward pass: noise level [batch], and standard normal noise by its use."""

    sigma: torch.Tensor
    noise: torch.Tensor
    latents: torch.Tensor
    augmentation: torch.Tensor


def draw(source: torch.Generator, latents: torch.Size, images: torch.Size, mean: float, std: float) -> Draws:
    """Draws for latents [batch, frames, 4, h, w] and keyframes [batch, 3, height, width]; sigma is lognormal.

    `augmentation` is one draw for both keyframes of a clip.
    """
    return Draws(
        sigma=torch.exp(mean + std * torch.randn(latents[0], generator=source)),
        noise=torch.randn(latents, generator=source),
        latents=torch.randn(latents, generator=source),
        augmentation=torch.randn(images, generator=source),
    )


@dataclass
class BatchMaker:
    """Loads encoded clips and adds the noise of a forward pass."""

    vae: AutoencoderKLTemporalDecoder
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
        drawn = draw(source, mean.shape, keyframes[:, 0].shape, settings.sigma_mean, settings.sigma_std)
        first_latent, last_latent = self._keyframe_latents(keyframes, drawn.augmentation)
        time_ids = torch.tensor([[settings.fps - 1, settings.motion_bucket, settings.noise_augmentation]])
        tensors = {
            "latents": (mean + std * drawn.latents) * self.vae.config["scaling_factor"],
            "noise": drawn.noise,
            "sigma": drawn.sigma,
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


def prepare_clips(accelerator: Accelerator, settings: Settings) -> tuple[BatchMaker, list[Path], list[Path]]:
    """Encode what the cache lacks, each process its share; returns the batch maker, clips and held-out clips."""
    shape = ClipShape(
        settings.frames, settings.stride, settings.width, settings.height, settings.fit, settings.clips_per_video
    )
    cache = ClipCache(settings.cache_folder, shape, Path(settings.base))
    folders = {"--data": settings.data} | ({"--held-out": settings.held_out} if settings.held_out else {})
    sources = {option: find_sources(Path(folder), option) for option, folder in folders.items()}
    vae = load_vae(Path(settings.base)).to(accelerator.device)
    missing = {option: cache.missing(each) for option, each in sources.items()}
    encoders = None
    if any(missing.values()):
        embedder = ImageEmbedder.load(Path(settings.base))
        embedder.encoder.to(accelerator.device)
        encoders = Encoders(vae, embedder)
    accelerator.wait_for_everyone()
    clips = {}
    for option, paths in missing.items():
        share = paths[accelerator.process_index :: accelerator.num_processes]
        skipped = cache.encode(share, encoders, accelerator.is_main_process) if share and encoders else []
        skipped = gather_object(skipped)
        accelerator.wait_for_everyone()
        clips[option] = collect(cache, sources[option], skipped, option)
    # Only the encoder is needed from here on.
    del vae.decoder
    return BatchMaker(vae, settings, accelerator.device), clips["--data"], clips.get("--held-out", [])


@dataclass
class HeldOut:
    """Clips that are never trained on, always with the same noise, so that the curve of their loss shows learning."""

    accelerator: Accelerator
    model: BackwardMotionModel
    batches: BatchMaker
    clips: list[Path]
    seed: int

    def base_losses(self) -> dict[str, dict[str, object]]:
        """Losses before the first step: of the base weights, with rotated and with their own maps."""
        return {f"base_{maps}": self.losses(maps)["loss"] for maps in ("rotated", "own")}

    def losses(self, maps: str | None = None) -> dict[str, dict[str, object]]:
        """Losses with the model's maps or others: {"loss": {"mean", "plus_minus", "clips"}}.

        `plus_minus` is half the 95 % interval over the clips; most of it is the spread of noise levels. `clips` has
        each clip's loss in a fixed order, for the far narrower interval of a difference clip by clip.
        """
        accelerator = self.accelerator
        values = []
        with torch.no_grad():
            for number in range(accelerator.process_index, len(self.clips), accelerator.num_processes):
                batch = self.batches([self.clips[number]], generator(self.seed, HELD_OUT, number))
                values.append((number, self.model(**batch, maps=maps).item()))
        clips = torch.tensor([value for _, value in sorted(gather_object(values))])
        spread = clips.std().item() if len(clips) > 1 else 0.0
        return {
            "loss": {
                "mean": clips.mean().item(),
                "plus_minus": 1.96 * spread / len(clips) ** 0.5,
                "clips": clips.tolist(),
            }
        }
