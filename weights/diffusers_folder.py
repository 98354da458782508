"""Reads a diffusers folder of Stable Video Diffusion: `unet/`, `vae/`, `image_encoder/`, each with its config."""

import json
import re
from collections.abc import Collection
from pathlib import Path

from . import unet_keys, vae_keys
from .errors import WeightsError
from .safetensors_files import PICKLE_SUFFIXES, read_tensors
from .svd_parts import PARTS, SVDConfig, SVDParts

_STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "image_encoder": "model"}


def read_folder(folder: Path, wanted: Collection[str] = PARTS) -> SVDParts:
    """The wanted parts of the SVD model in a diffusers folder; `.fp16.` and sharded file names are found too.

    Raises WeightsError when a part is missing, incomplete, or not of SVD's architecture.
    """
    folder = Path(folder)
    tensors = {part: _read_part(folder / part, stem) if part in wanted else {} for part, stem in _STEMS.items()}
    unet = {name: tensors["unet"][key] for key, name in unet_keys.diffusers_to_comfy(tensors["unet"]).items()}
    config = _read_config(folder / "unet"), _read_config(folder / "image_encoder")
    return SVDParts(unet, vae_keys.tensors_to_comfy(tensors["vae"]), tensors["image_encoder"], _svd_config(*config))


def weight_files(folder: Path, stem: str) -> list[Path]:
    """The safetensors files of one part: plain names before `.fp16.` ones, all shards of a sharded one.

    Raises WeightsError when there are none.
    """
    for variant in ("", ".fp16"):
        name = re.compile(rf"{re.escape(stem)}{re.escape(variant)}(-\d+-of-(\d+))?\.safetensors$")
        found = {path: match for path in sorted(folder.glob("*.safetensors")) if (match := name.match(path.name))}
        if found:
            shards = next((int(match[2]) for match in found.values() if match[2]), None)
            if shards is not None and len(found) != shards:
                raise WeightsError(f"Expected {shards} shards of {stem} in {folder}, found {len(found)}. "
                                   "Download the missing ones.")
            return list(found)
    pickles = sorted(path.name for path in folder.glob(f"{stem}*") if path.suffix in PICKLE_SUFFIXES)
    hint = f" There is {pickles[0]}, a pickle, which is not read." if pickles else ""
    raise WeightsError(f"Expected {stem}.safetensors or {stem}.fp16.safetensors in {folder}, found neither.{hint} "
                       "Download the model's whole folder, its safetensors files included.")


def _read_part(folder: Path, stem: str) -> dict:
    tensors = {}
    for path in weight_files(folder, stem):
        tensors.update(read_tensors(path))
    return tensors


def _read_config(folder: Path) -> dict:
    path = folder / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsError(f"Expected {path}, found none. Download the model's whole folder.") from error
    except ValueError as error:
        raise WeightsError(f"Expected JSON in {path}: {error}. Download it again.") from error


def _svd_config(unet: dict, image_encoder: dict) -> SVDConfig:
    heads, widths = unet.get("num_attention_heads", [5, 10, 20, 20]), unet.get("block_out_channels", [])
    heads = [heads] * len(widths) if isinstance(heads, int) else heads
    head_widths = {width // count for width, count in zip(widths, heads)}
    config = SVDConfig(image_encoder_heads=image_encoder.get("num_attention_heads", 16),
                       image_encoder_activation=image_encoder.get("hidden_act", "gelu"))
    if len(head_widths) == 1:
        config.num_head_channels = head_widths.pop()
    elif len(set(heads)) == 1:
        config.num_head_channels, config.num_heads = -1, heads[0]
    else:
        raise WeightsError(f"Expected attention heads of one width or of one number in every level, found {heads} "
                           f"heads for widths {widths}: ComfyUI cannot build such a UNet.")
    return config
