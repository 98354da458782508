"""Safetensors files and JSON tables, read and written without losing anything: checked when opened, whole when written.

Format: https://huggingface.co/docs/safetensors: an unsigned 64-bit length, that many bytes of JSON (names, number
formats, shapes and offsets of the tensors), then the tensors without gaps.

The safetensors library maps the whole file into memory for as long as any of its tensors is used: Windows then refuses
to replace the file, and `--disable-mmap` could not be obeyed. Here tensors are copied from the file one by one and the
file is closed, which takes one model's size of memory and no more.
"""

import errno
import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from ..common.atomic_write import atomic_write
from ..common.errors import WeightsError, plain_name

PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_PICKLE_ADVICE = (
    "A pickle can run any code when it is opened, so it is not read here. If you trust its source, convert it "
    'yourself: python -c "import torch, safetensors.torch as s; '
    "d = torch.load('IN{suffix}', map_location='cpu', weights_only=True); "
    "s.save_file({{k: v.contiguous() for k, v in d.get('state_dict', d).items()}}, 'OUT.safetensors')\""
)
# SVD's header is below half a megabyte; a larger one is made to fill the memory.
_LARGEST_HEADER = 16 * 2**20
# Configurations have a few thousand characters.
_LARGEST_TABLE = 2**20
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class StoredTensor:
    """`format`: the file's name of the number format, e.g. `F16`; `start`, `end`: its bytes, counted from the file's
    beginning.
    """

    format: str
    shape: tuple[int, ...]
    start: int
    end: int


class SafetensorsFile:
    """An open safetensors file, tensors still on disk; a context manager that closes it.

    `stored`: what its header says of each tensor, by name; `metadata`: the strings in its header.
    """

    def __init__(self, path: Path):
        """Raises WeightsError when the file is missing, a pickle, truncated, or no safetensors file."""
        path = Path(path)
        self.name = plain_name(path.name)
        self.stored: dict[str, StoredTensor] = {}
        self.metadata: dict[str, str] = {}
        # Reading a pipe would wait for ever, a device would never end.
        if not os.path.isfile(path):
            raise WeightsError(f"Expected a safetensors file of the name {self.name}, found none.")
        if path.suffix.lower() in PICKLE_SUFFIXES:
            raise WeightsError(
                f"Expected a safetensors file, found the pickle {self.name}. "
                + _PICKLE_ADVICE.format(suffix=path.suffix)
            )
        try:
            self._file = open(path, "rb")  # noqa: SIM115 - closed by close()
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

        Raises WeightsError for a number format that torch lacks, and when the file has changed meanwhile.
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
        buffer = tensor.reshape(-1).view(torch.uint8).numpy().data
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
            f"{plain_name(path.name)} exists already and is kept. Choose another name, or allow it to be overwritten."
        )
    try:
        with atomic_write(path) as temporary:
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, temporary, metadata=dict(metadata))
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        reason = "the disk is full" if full else getattr(error, "strerror", None) or error
        raise WeightsError(f"Could not write {plain_name(path.name)}: {reason}. Nothing was changed there.") from error


def read_header(file: BinaryIO, file_size: int) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """({name: tensor}, metadata) of an open safetensors file. Raises ValueError, saying what is wrong with it."""
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 2 <= length <= file_size - 8:
        raise ValueError("its header is incomplete")
    if length > _LARGEST_HEADER:
        raise ValueError(f"its header has {length:,} bytes, more than any SVD model's")
    try:
        header = json.loads(file.read(length).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError("its header is no JSON") from error
    if not isinstance(header, dict):
        raise ValueError("its header is no table")
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are no table of strings")
    tensors = {name: _stored(entry, 8 + length) for name, entry in header.items()}
    _check_offsets(tensors, 8 + length, file_size)
    return tensors, metadata


def _stored(entry: Any, data: int) -> StoredTensor:
    """One entry of the header; `data`: where the tensors begin in the file."""
    try:
        shape, (start, end) = tuple(entry["shape"]), entry["data_offsets"]
        if isinstance(entry["dtype"], str) and all(
            type(number) is int and number >= 0 for number in (*shape, start, end)
        ):
            return StoredTensor(entry["dtype"], shape, data + start, data + end)
    except (KeyError, TypeError, ValueError):
        pass
    raise ValueError("an entry of its header is damaged")


def _check_offsets(tensors: dict[str, StoredTensor], data: int, file_size: int) -> None:
    position = data
    for stored in sorted(tensors.values(), key=lambda stored: (stored.start, stored.end)):
        if stored.start != position or stored.end < stored.start:
            raise ValueError("its tensors overlap or have gaps between them")
        if stored.format in DTYPES and (
            math.prod(stored.shape) * DTYPES[stored.format].itemsize != stored.end - stored.start
        ):
            raise ValueError("a tensor's shape does not fit its bytes")
        position = stored.end
    if position != file_size:
        raise ValueError(f"its tensors need {position:,} bytes")


def read_table(path: str | os.PathLike) -> dict:
    """The table in a JSON file. Raises WeightsError when there is none, or something else in its place."""
    name = plain_name("/".join(Path(path).parts[-2:]))
    if not os.path.exists(path):
        raise WeightsError(f"Expected {name}, found none. Download the model's whole folder.")
    # Reading a pipe would wait for ever, a device would never end.
    if not os.path.isfile(path):
        raise WeightsError(
            f"Expected an ordinary file as {name}, found a folder, pipe or device. Download the model's folder again."
        )
    try:
        with open(path, "rb") as file:
            text = file.read(_LARGEST_TABLE + 1)
    except OSError as error:
        raise WeightsError(f"Could not read {name}: {error.strerror}.") from error
    return parse_table(text, name)


def parse_table(text: str | bytes, name: str) -> dict:
    """The table in a JSON text that stands in `name`. Raises WeightsError when it holds anything else."""
    try:
        if len(text) > _LARGEST_TABLE:
            raise ValueError(f"it is longer than {_LARGEST_TABLE:,} characters")
        # Windows' editors put a mark before the text.
        table = json.loads(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
    except RecursionError as error:
        raise WeightsError(f"Expected a JSON table in {name}, found one nested too deep. Download it again.") from error
    except ValueError as error:
        raise WeightsError(f"Expected a JSON table in {name}: {error}. Download it again.") from error
    if not isinstance(table, dict):
        raise WeightsError(f"Expected a JSON table in {name}, found a {type(table).__name__}. Download it again.")
    return table
