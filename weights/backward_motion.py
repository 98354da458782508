"""Backward-motion files: what fine-tuning added to 16 × (`to_v`, `to_out.0`), as differences from the base weights.

Fine-tuning SVD for backward motion (Wang et al., arXiv 2408.15239, section 4.1) changes the value and output
projections of the 16 temporal self-attentions and nothing else. The file holds `W_fine_tuned − W_base` in ComfyUI's
names, so the same file serves SVD and SVD-XT: 24,780,800 numbers, 47 MiB in fp16.
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from . import unet_keys
from .errors import WeightsError
from .safetensors_files import open_safetensors, save_tensors

FORMAT = "backward-motion"
VERSION = "1"
PREFIX = "diffusion_model."
METADATA_KEYS = ("format", "version", "base", "frames", "source", "license", "temporal_attention")


def is_backward_motion_key(key: str) -> bool:
    """Whether a ComfyUI UNet key, prefix allowed, names one of the fine-tuned matrices."""
    return unet_keys.TEMPORAL_ATTENTION.match(key) is not None


def write_backward_motion(path: Path, differences: Mapping[str, torch.Tensor], metadata: Mapping[str, str],
                          overwrite: bool = False, dtype: torch.dtype = torch.float16) -> None:
    """Writes a backward-motion file.

    `differences`: {`input_blocks.1.1.time_stack.0.attn1.to_v.weight`: `[channels, channels]`, …} with or without the
    prefix `diffusion_model.`; `metadata`: strings for the keys `base`, `frames`, `source`, `license`,
    `temporal_attention` (`rotated` or `own`).
    Raises WeightsError when a tensor does not belong, is not finite, or the file cannot be written.
    """
    named = {PREFIX + key.removeprefix(PREFIX): tensor.to(dtype) for key, tensor in differences.items()}
    _check(named, Path(path).name)
    complete = {"format": FORMAT, "version": VERSION, **{key: str(value) for key, value in metadata.items()}}
    save_tensors(path, named, complete, overwrite)


def read_backward_motion(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """({`diffusion_model.….attn1.to_v.weight`: difference}, metadata) of a backward-motion file.

    Raises WeightsError when it is missing, a pickle, truncated, not finite, a whole UNet, or of a newer format.
    """
    path = Path(path)
    with open_safetensors(path) as file:
        keys, metadata = list(file.keys()), file.metadata() or {}
        if any("conv_in." in key or "input_blocks.0." in key for key in keys):
            raise WeightsError(f"Expected the differences that fine-tuning made, found a whole UNet ({len(keys):,} "
                               f"tensors) in {path.name}. Run it through Convert Backward Motion Weights first, "
                               "together with the base model that it was trained from.")
        if metadata.get("version", VERSION) != VERSION:
            raise WeightsError(f"Expected a backward-motion file of version {VERSION}, found version "
                               f"{metadata['version']} in {path.name}. Update this node pack.")
        differences = {PREFIX + key.removeprefix(PREFIX): file.get_tensor(key) for key in keys}
    _check(differences, path.name)
    return differences, metadata


def layers(differences: Mapping[str, torch.Tensor]) -> list[str]:
    """The temporal self-attentions that the differences belong to, e.g. `diffusion_model.….time_stack.0.attn1`."""
    return sorted({unet_keys.TEMPORAL_ATTENTION.match(key)["layer"] for key in differences})


def check_fits(differences: Mapping[str, torch.Tensor], shapes: Mapping[str, torch.Size], file_name: str) -> None:
    """Raises WeightsError unless the differences have exactly the names and shapes of the model's own matrices."""
    if missing := shapes.keys() - differences.keys():
        raise WeightsError(f"Expected differences for {len(shapes)} matrices of this model, found {file_name} without "
                           f"{len(missing)} of them, the first: {min(missing)}. It belongs to another architecture.")
    for key, difference in differences.items():
        if key not in shapes or difference.shape != shapes[key]:
            expected = tuple(shapes[key]) if key in shapes else "no such matrix"
            raise WeightsError(f"Expected {expected} for {key}, found {tuple(difference.shape)} in {file_name}. "
                               "These backward-motion weights were trained from a model of another width: choose the "
                               "file that belongs to this model.")


def _check(differences: Mapping[str, torch.Tensor], file_name: str) -> None:
    if not differences:
        raise WeightsError(f"Expected backward-motion weights in {file_name}, found no tensors.")
    for key, difference in differences.items():
        if not is_backward_motion_key(key):
            raise WeightsError(f"Expected only `to_v` and `to_out.0` of temporal self-attentions in {file_name}, "
                               f"found {key}. It is no backward-motion file.")
        if not torch.isfinite(difference).all():
            raise WeightsError(f"Expected finite numbers in {file_name}, found NaN or infinity in {key}. "
                               "The file is damaged or its training diverged: get it again.")
    for layer in layers(differences):
        for matrix in ("to_v", "to_out.0"):
            if f"{layer}.{matrix}.weight" not in differences:
                raise WeightsError(f"Expected both `to_v` and `to_out.0` of {layer} in {file_name}, found only one.")
