"""Finished clips on disk, so that an interrupted sequence goes on where it stopped.

One file a clip, `<key>.safetensors`, with the sampled latents; the key stands for everything that they depend on. A
changed request has other keys, so no file is ever wrong, only unused; the oldest are removed.
"""

import hashlib
import logging
import os
import re
import time
from pathlib import Path

import torch

from ..weights.errors import WeightsError
from ..weights.safetensors_files import read_metadata, read_tensors, save_tensors

logger = logging.getLogger(__name__)

FILES_KEPT = 256
_FINISHED = re.compile(r"[0-9a-f]{32}\.safetensors")
_UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.safetensors\..*\.partial")
_SECONDS_UNTIL_ABANDONED = 24 * 3600


class FinishedClips:
    """The clips in `folder`, which is made when the first one is written."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def read(self, key: str, shape: tuple[int, ...]) -> torch.Tensor | None:
        """The latents `[frames, 4, h, w]` of that key, or None when there are none or the file was changed."""
        path = self._path(key)
        if not path.is_file():
            return None
        try:
            metadata, latents = read_metadata(path), read_tensors(path)["latents"]
            if tuple(latents.shape) == shape and metadata == _metadata(key, latents):
                # Used is as good as new: what a running sequence needs is never among the oldest.
                os.utime(path)
                return latents
        except (WeightsError, KeyError, OSError) as error:
            logger.debug("%s", error)
        logger.warning("Finished clip %s cannot be used and is computed again: it was changed or is damaged.", path)
        return None

    def write(self, key: str, latents: torch.Tensor) -> None:
        """Keeps the latents; when that fails, by a full disk for instance, a warning says so and nothing else happens.
        """
        try:
            save_tensors(self._path(key), {"latents": latents}, _metadata(key, latents), overwrite=True)
        except WeightsError as error:
            logger.warning("This clip is finished but cannot be kept for a later run: %s", error)

    def remove_oldest(self, kept: int) -> None:
        """Removes all but the `kept` newest clips, and what a crash left half-written a day ago. Nothing else."""
        if not self.folder.is_dir():
            return
        files = [path for path in self.folder.iterdir() if _FINISHED.fullmatch(path.name)]
        old = sorted(files, key=_age)[kept:]
        old += [path for path in self.folder.iterdir()
                if _UNFINISHED.fullmatch(path.name) and _age(path) > _SECONDS_UNTIL_ABANDONED]
        for path in old:
            path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def _age(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def _metadata(key: str, latents: torch.Tensor) -> dict[str, str]:
    checksum = hashlib.sha256(latents.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
    return {"key": key, "sha256": checksum}
