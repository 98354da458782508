"""The header of a safetensors file: names, number formats, shapes and places of its tensors, checked before reading.

Format: https://huggingface.co/docs/safetensors, an unsigned 64-bit length, that many bytes of JSON, then the tensors
without gaps. Read here and not by the safetensors library because that maps the whole file into memory, where it stays
as long as any of its tensors is used: Windows then refuses to replace it, and `--disable-mmap` could not be obeyed.
"""

import json
import math
import struct
from dataclasses import dataclass
from typing import BinaryIO

import torch

# SVD's is below half a megabyte; a larger one is made to fill the memory.
_LARGEST = 16 * 2**20
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


def read_header(file: BinaryIO, file_size: int) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """({name: tensor}, metadata) of an open safetensors file. Raises ValueError, saying what is wrong with it."""
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 2 <= length <= file_size - 8:
        raise ValueError("its header is incomplete")
    if length > _LARGEST:
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
    _check_places(tensors, 8 + length, file_size)
    return tensors, metadata


def _stored(entry: object, data: int) -> StoredTensor:
    try:
        shape, (start, end) = tuple(entry["shape"]), entry["data_offsets"]
        if isinstance(entry["dtype"], str) and all(
            type(number) is int and number >= 0 for number in (*shape, start, end)
        ):
            return StoredTensor(entry["dtype"], shape, data + start, data + end)
    except (KeyError, TypeError, ValueError):
        pass
    raise ValueError("an entry of its header is damaged")


def _check_places(tensors: dict[str, StoredTensor], data: int, file_size: int) -> None:
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
