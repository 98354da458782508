"""Reads a diffusers folder of Stable Video Diffusion: `unet/`, `vae/`, `image_encoder/`, each with its config."""

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch

from . import unet_keys, vae_keys
from .errors import WeightsError, plain_name, quoted
from .kinds import refuse_image_decoder
from .safetensors_files import PICKLE_SUFFIXES, read_tensors
from .svd_parts import PARTS, SVDConfig, SVDParts
from .tables import read_table

_STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "image_encoder": "model"}


def read_folder(folder: Path, wanted: Collection[str] = PARTS) -> SVDParts:
    """The wanted parts of the SVD model in a diffusers folder; `.fp16.` and sharded file names are found too.

    Raises WeightsError when a part is missing, incomplete, or not of SVD's architecture.
    """
    folder = Path(folder)
    tensors = {part: _read_part(folder / part, stem) if part in wanted else {} for part, stem in _STEMS.items()}
    refuse_image_decoder(tensors["vae"], f"{plain_name(folder.name)}/")
    unet = {name: tensors["unet"][key] for key, name in unet_keys.diffusers_to_comfy(tensors["unet"]).items()}
    tables = {part: read_table(folder / part / "config.json") for part in ("unet", "image_encoder")}
    config = _svd_config(tables["unet"], tensors["unet"], tables["image_encoder"])
    parts = SVDParts(unet, vae_keys.tensors_to_comfy(tensors["vae"]), tensors["image_encoder"], config)
    parts.check(f"{plain_name(folder.name)}/")
    return parts


def weight_files(folder: Path, stem: str) -> list[Path]:
    """The safetensors files of one part: plain names before `.fp16.` ones, one file before all shards of a sharded one.

    Raises WeightsError when there are none.
    """
    shown = plain_name("/".join(folder.parts[-2:]))
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        names = []
    for variant in ("", ".fp16"):
        whole = f"{stem}{variant}.safetensors"
        if whole in names and (folder / whole).is_file():
            return [folder / whole]
        # diffusers has written the variant on either side of the numbers.
        shard = re.compile(rf"{stem}-(?P<number>\d{{1,5}})-of-(?P<total>\d{{1,5}})\.safetensors")
        found = {
            name: match
            for name in names
            if variant in name and (match := shard.fullmatch(name.replace(variant, "", 1)))
        }
        if found:
            total = min(int(match["total"]) for match in found.values())
            files = {
                int(match["number"]): folder / name for name, match in found.items() if int(match["total"]) == total
            }
            if files.keys() != set(range(1, total + 1)):
                raise WeightsError(
                    f"Expected {total} shards of {stem} in {shown}, found {len(files)}. Download the missing ones."
                )
            return [files[number] for number in sorted(files)]
    pickles = [name for name in names if name.startswith(stem) and name.endswith(PICKLE_SUFFIXES)]
    hint = f" There is {plain_name(pickles[0])}, a pickle, which is not read." if pickles else ""
    raise WeightsError(
        f"Expected {stem}.safetensors or {stem}.fp16.safetensors in {shown}, found neither.{hint} "
        "Download the model's whole folder, its safetensors files included."
    )


def _read_part(folder: Path, stem: str) -> dict:
    tensors = {}
    for path in weight_files(folder, stem):
        tensors.update(read_tensors(path))
    return tensors


def _svd_config(unet: dict, tensors: Mapping[str, torch.Tensor], image_encoder: dict) -> SVDConfig:
    widths = _level_widths(tensors)
    heads = unet.get("num_attention_heads", [5, 10, 20, 20])
    heads = [heads] * len(widths) if isinstance(heads, int) else heads
    config = SVDConfig(
        image_encoder_heads=image_encoder.get("num_attention_heads", 16),
        image_encoder_activation=image_encoder.get("hidden_act", "gelu"),
    )
    if not widths:
        return config
    if (
        not isinstance(heads, list)
        or len(heads) != len(widths)
        or not all(type(count) is int and 0 < count <= width for count, width in zip(heads, widths))
    ):
        raise WeightsError(
            f"Expected in unet/config.json as num_attention_heads a whole number for each of "
            f"{len(widths)} levels with {widths} channels, found {quoted(heads)}. Download it again."
        )
    if unet.get("block_out_channels", widths) != widths:
        raise WeightsError(
            f"Expected block_out_channels of {widths} in unet/config.json, as the weights have them, "
            f"found {quoted(unet['block_out_channels'])}. Download the whole folder again."
        )
    head_widths = {width // count for width, count in zip(widths, heads)}
    if len(head_widths) == 1:
        config.num_head_channels = head_widths.pop()
    elif len(set(heads)) == 1:
        config.num_head_channels, config.num_heads = -1, heads[0]
    else:
        raise WeightsError(
            f"Expected attention heads of one width or of one number in every level, found {heads} "
            f"heads for widths {widths}: ComfyUI cannot build such a UNet."
        )
    return config


def _level_widths(unet: Mapping[str, torch.Tensor]) -> list[int]:
    """Channels of each level, from the tensors in diffusers' names."""
    first = re.compile(r"down_blocks\.(\d+)\.resnets\.0\.spatial_res_block\.conv1\.weight$")
    found = sorted(filter(None, map(first.match, unet)), key=lambda match: int(match[1]))
    return [unet[match[0]].shape[0] if unet[match[0]].ndim else 0 for match in found]
