"""Reading and writing safetensors without losing anything: checked on opening, renamed into place when complete.

Tensors are copied from the file one by one, and the file is closed: nothing of it stays mapped. That takes one model's
size of ordinary memory and no more, since what the system keeps of a file that was read is not the process's.
"""

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from .atomic_write import atomic_write
from .errors import WeightsError, plain_name
from .safetensors_header import DTYPES, StoredTensor, read_header

PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_PICKLE_ADVICE = (
    "A pickle can run any code when it is opened, so it is not read here. If you trust its source, convert it "
    'yourself: python -c "import torch, safetensors.torch as s; '
    "d = torch.load('IN{suffix}', map_location='cpu', weights_only=True); "
    "s.save_file({{k: v.contiguous() for k, v in d.get('state_dict', d).items()}}, 'OUT.safetensors')\""
)


class SafetensorsFile:
    """An open safetensors file, tensors still on disk; a context manager that closes it.

    `stored`: {name: number format, shape and place}; `metadata`: the strings in its header.
    """

    def __init__(self, path: Path):
        """Raises WeightsError when the file is missing, a pickle, truncated, or no safetensors file."""
        path = Path(path)
        self.name = plain_name(path.name)
        self.stored: dict[str, StoredTensor] = {}
        self.metadata: dict[str, str] = {}
        # A pipe would be waited for, a device read without end.
        if not os.path.isfile(path):
            raise WeightsError(f"Expected a safetensors file of the name {self.name}, found none.")
        if path.suffix.lower() in PICKLE_SUFFIXES:
            raise WeightsError(
                f"Expected a safetensors file, found the pickle {self.name}. "
                + _PICKLE_ADVICE.format(suffix=path.suffix)
            )
        try:
            self._file = open(path, "rb")
        except OSError as error:
            raise WeightsError(f"Could not open {self.name}: {error.strerror}.") from error
        size = os.fstat(self._file.fileno()).st_size
        try:
            self.stored, self.metadata = read_header(self._file, size)
        except (ValueError, OSError) as error:
            self._file.close()
            raise WeightsError(
                f"Expected a safetensors file, found {self.name} ({size:,} bytes) that is truncated, "
                f"damaged, or of another format: {error}. Download or convert it again."
            ) from error

    def __enter__(self) -> "SafetensorsFile":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def keys(self) -> list[str]:
        """Names of its tensors."""
        return list(self.stored)

    def get_tensor(self, key: str) -> torch.Tensor:
        """A copy of one tensor, read from disk now.

        Raises WeightsError for a number format that torch has not, and when the file has changed meanwhile.
        """
        stored = self.stored[key]
        if stored.format not in DTYPES:
            raise WeightsError(
                f"Expected floating-point numbers in {self.name}, found {plain_name(stored.format)} in "
                f"{plain_name(key)}. Get the model in fp16, bf16 or fp32."
            )
        try:
            tensor = torch.empty(stored.shape, dtype=DTYPES[stored.format])
        except RuntimeError as error:
            raise WeightsError(
                f"{plain_name(key)} of {self.name} has {stored.end - stored.start:,} bytes, more than "
                "there is memory for."
            ) from error
        buffer = tensor.reshape(-1).view(torch.uint8).numpy()
        try:
            self._file.seek(stored.start)
            complete = self._file.readinto(buffer) == len(buffer)
        except OSError as error:
            raise WeightsError(f"Could not read {self.name}: {error.strerror}.") from error
        if not complete:
            raise WeightsError(f"{self.name} became shorter while it was read. Try again.")
        return tensor


def read_tensors(path: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """All tensors whose names start with `prefix`, without that prefix."""
    with SafetensorsFile(path) as file:
        return {key.removeprefix(prefix): file.get_tensor(key) for key in file.keys() if key.startswith(prefix)}


def read_metadata(path: Path) -> dict[str, str]:
    """The strings in a safetensors file's header."""
    with SafetensorsFile(path) as file:
        return file.metadata


def save_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], overwrite: bool = False
) -> None:
    """Writes a safetensors file; its name never stands for half of it, see `atomic_write`.

    Raises WeightsError when the file exists and `overwrite` is off, or when it cannot be written; what was there
    before is then untouched.
    """
    path = Path(path)
    if os.path.exists(path) and not overwrite:
        raise WeightsError(
            f"{plain_name(path.name)} exists already and is kept. Choose another name, or turn overwrite on."
        )
    try:
        with atomic_write(path) as temporary:
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, temporary, metadata=dict(metadata))
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        reason = "the disk is full" if full else getattr(error, "strerror", None) or error
        raise WeightsError(f"Could not write {plain_name(path.name)}: {reason}. Nothing was changed there.") from error
