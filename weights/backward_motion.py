"""Backward-motion files: what fine-tuning added to 16 × (`to_v`, `to_out.0`), as differences from the base weights.

Fine-tuning SVD for backward motion (Wang et al., arXiv 2408.15239, section 4.1) changes the value and output
projections of the 16 temporal self-attentions and nothing else. The file holds `W_fine_tuned − W_base` in ComfyUI's
names, so the same file serves SVD and SVD-XT: 24,780,800 numbers, 47 MiB in fp16.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

import torch

from ..common.errors import WeightsError, plain_name
from .files import SafetensorsFile, save_tensors
from .keys import unet as unet_keys

FORMAT = "backward-motion"
VERSION = "1"
PREFIX = "diffusion_model."
# {number format of a file: the one it is used in}. Nothing is lost: fp16 holds every number of fp8.
_USED_AS = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float32,
    "F8_E4M3": torch.float16,
    "F8_E5M2": torch.float16,
}
_LARGEST = torch.finfo(torch.float16).max
# SVD's differences take 95 MiB in fp32.
_LARGEST_FILE = 2**30


def is_backward_motion_key(key: str) -> bool:
    """Whether a ComfyUI UNet key, prefix allowed, names one of the fine-tuned matrices."""
    return unet_keys.TEMPORAL_ATTENTION.match(key) is not None


def write_backward_motion(
    path: Path,
    differences: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    overwrite: bool = False,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Writes a backward-motion file.

    `differences`: {`input_blocks.1.1.time_stack.0.attn1.to_v.weight`: `[channels, channels]`, …} with or without the
    prefix `diffusion_model.`; `metadata`: strings for the keys `base`, `frames`, `source`, `license`,
    `temporal_attention` (`rotated` or `own`).
    Raises WeightsError when a tensor does not belong, is not finite, or the file cannot be written.
    """
    named = {PREFIX + key.removeprefix(PREFIX): tensor for key, tensor in differences.items()}
    name = plain_name(Path(path).name)
    _check_names(named, name)
    _check_numbers(named, name)
    complete = {"format": FORMAT, "version": VERSION, **{key: str(value) for key, value in metadata.items()}}
    save_tensors(path, {key: tensor.to(dtype) for key, tensor in named.items()}, complete, overwrite)


def read_backward_motion(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """({`diffusion_model.….attn1.to_v.weight`: difference in fp16, bf16 or fp32}, metadata) of a backward-motion file.

    Raises WeightsError when it is missing, a pickle, truncated, not of finite floating-point numbers within fp16, a
    whole UNet, or of a newer format.
    """
    with SafetensorsFile(path) as file:
        check_header(file)
        differences = {}
        for key, stored in file.stored.items():
            differences[PREFIX + key.removeprefix(PREFIX)] = file.get_tensor(key).to(_USED_AS[stored.format])
    _check_numbers(differences, file.name)
    return differences, file.metadata


def check_header(file: SafetensorsFile) -> None:
    """Raises WeightsError unless the names and number formats of the file's tensors are a backward-motion file's."""
    keys = file.keys()
    if any("conv_in." in key or "input_blocks.0." in key for key in keys):
        raise WeightsError(
            f"Expected the differences that fine-tuning made, found a whole UNet ({len(keys):,} "
            f"tensors) in {file.name}. Run it through Convert Backward Motion Weights first, "
            "together with the base model that it was trained from."
        )
    if (version := file.metadata.get("version", VERSION)) != VERSION:
        raise WeightsError(
            f"Expected a backward-motion file of version {VERSION}, found version "
            f"{plain_name(version)} in {file.name}. Update this node pack."
        )
    names = {PREFIX + key.removeprefix(PREFIX) for key in keys}
    _check_names(names, file.name)
    size = sum(stored.end - stored.start for stored in file.stored.values())
    if len(names) < len(keys) or size > _LARGEST_FILE:
        raise WeightsError(
            f"Expected one difference a matrix and less than 1 GiB in {file.name}, found {len(keys):,} "
            f"tensors of {size:,} bytes. It is no backward-motion file."
        )
    for key, stored in file.stored.items():
        if stored.format not in _USED_AS:
            raise WeightsError(
                f"Expected floating-point numbers (fp32, fp16, bf16, fp8) in {file.name}, found "
                f"{plain_name(stored.format)} in {plain_name(key)}. Make the file again with Convert "
                "Backward Motion Weights."
            )


def layers(differences: Collection[str]) -> list[str]:
    """The temporal self-attentions of the differences, e.g. `diffusion_model.….time_stack.0.attn1`."""
    return sorted({match["layer"] for match in map(unet_keys.TEMPORAL_ATTENTION.match, differences) if match})


def check_fits(differences: Mapping[str, torch.Tensor], shapes: Mapping[str, torch.Size], file_name: str) -> None:
    """Raises WeightsError unless the differences have exactly the names and shapes of the model's own matrices."""
    if missing := shapes.keys() - differences.keys():
        raise WeightsError(
            f"Expected differences for {len(shapes)} matrices of this model, found {file_name} without "
            f"{len(missing)} of them, the first: {plain_name(min(missing))}. It belongs to another "
            "architecture."
        )
    for key, difference in differences.items():
        if key not in shapes or difference.shape != shapes[key]:
            expected = tuple(shapes[key]) if key in shapes else "no such matrix"
            raise WeightsError(
                f"Expected {expected} for {plain_name(key)}, found {tuple(difference.shape)} in "
                f"{file_name}. These backward-motion weights were trained from a model of another "
                "width: choose the file that belongs to this model."
            )


def _check_names(keys: Collection[str], file_name: str) -> None:
    if not keys:
        raise WeightsError(f"Expected backward-motion weights in {file_name}, found no tensors.")
    for key in keys:
        if not is_backward_motion_key(key):
            raise WeightsError(
                f"Expected only `to_v` and `to_out.0` of temporal self-attentions in {file_name}, "
                f"found {plain_name(key)}. It is no backward-motion file."
            )
    for layer in layers(keys):
        for matrix in ("to_v", "to_out.0"):
            if f"{layer}.{matrix}.weight" not in keys:
                raise WeightsError(
                    f"Expected both `to_v` and `to_out.0` of {plain_name(layer)} in {file_name}, found only one."
                )


def _check_numbers(differences: Mapping[str, torch.Tensor], file_name: str) -> None:
    for key, difference in differences.items():
        if not torch.isfinite(difference).all():
            raise WeightsError(
                f"Expected finite numbers in {file_name}, found NaN or infinity in {plain_name(key)}. "
                "The file is damaged or its training diverged: get it again."
            )
        # In an fp16 model they would be infinite.
        if difference.numel() and difference.abs().max() > _LARGEST:
            raise WeightsError(
                f"Expected numbers of at most {_LARGEST:,.0f} in {file_name}, found "
                f"{difference.abs().max().item():.3g} in {plain_name(key)}. The file is damaged or its "
                "training diverged: get it again."
            )
