"""Reading and writing safetensors without losing anything: checked on opening, renamed into place when complete."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .atomic_write import atomic_write
from .errors import WeightsError

PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_PICKLE_ADVICE = (
    "A pickle can run any code when it is opened, so it is not read here. If you trust its source, convert it "
    "yourself: python -c \"import torch, safetensors.torch as s; "
    "d = torch.load('IN{suffix}', map_location='cpu', weights_only=True); "
    "s.save_file({{k: v.contiguous() for k, v in d.get('state_dict', d).items()}}, 'OUT.safetensors')\"")


def open_safetensors(path: Path) -> safe_open:
    """An open safetensors file, tensors still on disk.

    Raises WeightsError when the file is missing, a pickle, truncated, or no safetensors file.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"Expected a safetensors file at {path}, found none.")
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise WeightsError(f"Expected a safetensors file, found the pickle {path.name}. "
                           + _PICKLE_ADVICE.format(suffix=path.suffix))
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"Expected a safetensors file, found {path.name} ({path.stat().st_size:,} bytes) that is "
                           f"truncated, damaged, or of another format: {error}. Download or convert it "
                           "again.") from error


def read_tensors(path: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """All tensors whose names start with `prefix`, without that prefix."""
    with open_safetensors(path) as file:
        return {key.removeprefix(prefix): file.get_tensor(key) for key in file.keys() if key.startswith(prefix)}


def read_metadata(path: Path) -> dict[str, str]:
    """The strings in a safetensors file's header."""
    with open_safetensors(path) as file:
        return file.metadata() or {}


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str],
                 overwrite: bool = False) -> None:
    """Writes a safetensors file under a temporary name beside `path` and renames it when it is complete.

    Raises WeightsError when the file exists and `overwrite` is off, or when it cannot be written; what was there
    before is then untouched.
    """
    path = Path(path)
    if os.path.exists(path) and not overwrite:
        raise WeightsError(f"{path} exists already and is kept. Choose another name, or allow overwriting.")
    try:
        with atomic_write(path) as temporary:
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, temporary, metadata=dict(metadata))
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        reason = "the disk is full" if full else getattr(error, "strerror", None) or error
        raise WeightsError(f"Could not write {path}: {reason}. Nothing was changed there.") from error
