"""Encoded clips on disk: VAE latents, CLIP embeddings and the two keyframes, made once for each source and setting.

A source's clips are kept under a key of the file (path, size, time of change), of how clips are cut, and of the
encoders. The list of a source's clips is written last, so an interrupted run takes up where it stopped.
Augmentation noise is drawn anew in every step and in image space, so the keyframes are kept as pixels and go through
the VAE's encoder again with their noise; everything else comes from here.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLTemporalDecoder
from tqdm.auto import tqdm

from ..common.atomic_write import write_json
from ..weights.files import read_tensors, save_tensors
from .data import IMAGE_SUFFIXES, ClipShape, NoVideos, Unreadable, read_clips
from .svd import ImageEmbedder, encode_images

logger = logging.getLogger(__name__)

CACHE_VERSION = 1


@dataclass(frozen=True)
class Skipped:
    """A source that gave no clip, or fewer than it should have, and why."""

    source: str
    reason: str
    clips: int = 0


class ClipCache:
    """Encoded clips of a folder of sources."""

    def __init__(self, folder: Path, shape: ClipShape, base: Path) -> None:
        self.folder = Path(folder)
        self.shape = shape
        self.base = Path(base)
        self._encoders = [
            file_identity(path)
            for part in ("vae", "image_encoder", "feature_extractor")
            for path in sorted((self.base / part).glob("*"))
            if path.is_file()
        ]

    def key(self, source: Path) -> str:
        """Name of a source's entries: changes with the file, the way clips are cut, and the encoders."""
        files = (
            [source]
            if source.is_file()
            else [p for p in sorted(source.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES]
        )
        described = [CACHE_VERSION, asdict(self.shape), self._encoders, [file_identity(path) for path in files]]
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:32]

    def clips(self, source: Path) -> list[Path] | None:
        """The encoded clips of a source, or None if it has not been encoded to its end."""
        key = self.key(source)
        listed = self.folder / f"{key}.json"
        try:
            count = json.loads(listed.read_text(encoding="utf-8"))["clips"]
        except (FileNotFoundError, ValueError, KeyError):
            return None
        paths = [self._clip_path(key, number) for number in range(count)]
        return paths if all(path.is_file() for path in paths) else None

    def _clip_path(self, key: str, number: int) -> Path:
        return self.folder / f"{key}-{number:05d}.safetensors"

    def missing(self, sources: Iterable[Path]) -> list[Path]:
        """The sources that still have to be encoded."""
        return [source for source in sources if self.clips(source) is None]

    def encode(self, sources: list[Path], encoders: Encoders, progress: bool = True) -> list[Skipped]:
        """Encode sources; those that cannot be used are returned with the reason, never raised."""
        self.folder.mkdir(parents=True, exist_ok=True)
        skipped = []
        for source in tqdm(sources, desc="encoding clips", unit="video", disable=not progress):
            problem = self._encode_source(source, encoders)
            if problem:
                logger.warning("%s: %s", problem.source, problem.reason)
                skipped.append(problem)
        return skipped

    def _encode_source(self, source: Path, encoders: Encoders) -> Skipped | None:
        key, made, damage = self.key(source), 0, None
        try:
            for clip in read_clips(source, self.shape):
                save_tensors(self._clip_path(key, made), encoders.encode(clip), {}, overwrite=True)
                made += 1
        except Unreadable as error:
            damage = str(error)
        if made:
            write_json(self.folder / f"{key}.json", {"clips": made, "source": str(source), "damage": damage})
        if damage:
            return Skipped(str(source), f"unreadable: {damage}", made)
        if not made:
            return Skipped(
                str(source),
                f"too short: a clip needs {self.shape.span} frames "
                f"({self.shape.frames} with a stride of {self.shape.stride})",
            )
        return None


@dataclass
class Encoders:
    """The VAE and the image encoder, on one device."""

    vae: AutoencoderKLTemporalDecoder
    embed: ImageEmbedder

    def encode(self, clip: np.ndarray) -> dict[str, torch.Tensor]:
        """A cache entry of a clip uint8 [frames, height, width, 3]: latents, embeddings and keyframes."""
        frames = to_images(torch.from_numpy(clip).permute(0, 3, 1, 2))
        mean, std = encode_images(self.vae, frames)
        keyframes = torch.from_numpy(clip[[0, -1]]).permute(0, 3, 1, 2)
        return {
            "latent_mean": mean.cpu(),
            "latent_std": std.cpu(),
            "keyframes": keyframes.contiguous(),
            "embeddings": self.embed(to_images(keyframes)).cpu(),
        }


def to_images(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 pixels as images in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def load_clip(path: Path) -> dict[str, torch.Tensor]:
    """A cache entry.

    latent_mean, latent_std: [frames, 4, h, w], unscaled; keyframes: uint8 [2, 3, height, width], first and last;
    embeddings: [2, 1, width].
    """
    return read_tensors(path)


def collect(cache: ClipCache, sources: list[Path], skipped: list[Skipped], option: str) -> list[Path]:
    """All encoded clips of the sources, with a report of what was skipped. Raises NoVideos if none is left."""
    clips = [path for source in sources for path in cache.clips(source) or []]
    useless = [each for each in skipped if not each.clips]
    short = sum(each.reason.startswith("too short") for each in useless)
    logger.info(
        "%s: %d clips from %d of %d videos; skipped: %d too short, %d unreadable; damaged but used: %d",
        option,
        len(clips),
        len(sources) - len(useless),
        len(sources),
        short,
        len(useless) - short,
        len(skipped) - len(useless),
    )
    if not clips:
        raise NoVideos(
            f"{option}: none of the {len(sources)} videos gives a clip: {short} are shorter than "
            f"{cache.shape.span} frames, {len(useless) - short} cannot be read. Give longer videos, or "
            "lower --frames or --stride."
        )
    return clips


def file_identity(path: Path) -> list[object]:
    """What tells a file from another version of it: place, size and time of change."""
    stat = path.stat()
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns]
