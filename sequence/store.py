"""Finished clips on disk, so that an interrupted sequence goes on where it stopped.

One file a clip, `<key>.safetensors`, with the sampled latents; the key stands for everything that they depend on. A
changed request has other keys, so no file is ever wrong, only unused; the oldest are removed. Whatever else lies in the
folder, or cannot be read, written or removed there, costs at most the clip that it concerns.
"""

import hashlib
import logging
import os
import re
import stat
from contextlib import suppress
from pathlib import Path

import torch

from ..common.errors import WeightsError
from ..weights.files import read_metadata, read_tensors, save_tensors

logger = logging.getLogger(__name__)

FILES_KEPT = 256
_FINISHED = re.compile(r"[0-9a-f]{32}\.safetensors")
_NUMBERS = (torch.float32, torch.float16, torch.bfloat16)


class FinishedClips:
    """The clips in `folder`, which is made when the first one is written."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def read(self, key: str, shape: tuple[int, ...]) -> torch.Tensor | None:
        """The latents `[frames, 4, h, w]` of that key, or None when there are none or the file cannot be used."""
        path = self._path(key)
        if _modified(path) is None:
            return None
        try:
            metadata, latents = read_metadata(path), read_tensors(path)["latents"]
        except Exception as error:  # noqa: BLE001
            # A changed file can hold anything, and another server may be removing it.
            logger.debug("%s", error)
        else:
            if _are_latents(latents, shape) and metadata == _metadata(key, latents):
                # Used is as good as new: what a running sequence needs is never among the oldest.
                with suppress(OSError):
                    os.utime(path)
                return latents
        logger.warning("Finished clip %s cannot be used and is computed again: it was changed or is damaged.", path)
        return None

    def write(self, key: str, latents: torch.Tensor) -> None:
        """Keeps the latents; when that fails, on a full disk for instance, a warning says so and the run goes on."""
        try:
            save_tensors(self._path(key), {"latents": latents}, _metadata(key, latents), overwrite=True)
        except WeightsError as error:
            logger.warning("This clip is finished but cannot be kept for a later run: %s", error)

    def remove_oldest(self, kept: int) -> None:
        """Removes all but the `kept` newest clips, and nothing else."""
        clips = self._files()
        for path in sorted(clips, key=clips.__getitem__, reverse=True)[kept:]:
            with suppress(OSError):
                path.unlink()

    def _files(self) -> dict[Path, float]:
        """Those of a clip's name, and when they were written."""
        try:
            paths = [self.folder / entry for entry in os.listdir(self.folder) if _FINISHED.fullmatch(entry)]
        except OSError:
            return {}
        return {path: written for path in paths if (written := _modified(path)) is not None}

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def _modified(path: Path) -> float | None:
    """When an ordinary file was written; None for what is none, a link among them, or is not there."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_mtime if stat.S_ISREG(status.st_mode) else None


def _are_latents(latents: torch.Tensor, shape: tuple[int, ...]) -> bool:
    return tuple(latents.shape) == shape and latents.dtype in _NUMBERS and bool(latents.isfinite().all())


def _metadata(key: str, latents: torch.Tensor) -> dict[str, str]:
    numbers = latents.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return {"key": key, "sha256": hashlib.sha256(numbers.tobytes()).hexdigest()}
