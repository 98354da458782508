"""Stable Video Diffusion's three networks, read from a checkpoint or a diffusers folder, and written as a checkpoint.

In memory UNet and VAE have the names that ComfyUI builds them from, the image encoder those of transformers. A
checkpoint is one file with the names of Stability AI's `svd.safetensors`; a diffusers folder holds `unet/`, `vae/` and
`image_encoder/`, each with its config.
"""

import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch

from ..common.errors import WeightsError, plain_name, quoted
from .files import PICKLE_SUFFIXES, SafetensorsFile, parse_table, read_table, read_tensors, save_tensors
from .identify import (
    IMAGE_ENCODER_PREFIX,
    PARTS,
    UNET_PREFIX,
    VAE_PREFIX,
    has_temporal_unet,
    likely_kind,
    refuse_image_decoder,
)
from .keys import image_encoder as image_encoder_keys
from .keys import unet as unet_keys
from .keys import vae as vae_keys

# Those of the host's CLIP.
ACTIVATIONS = ("gelu", "quick_gelu", "gelu_pytorch_tanh")
# The metadata of a checkpoint that hold its SVDConfig.
_CONFIG = "svd_config"
# How a diffusers folder calls the weights of each part.
_STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "image_encoder": "model"}


@dataclass
class SVDConfig:
    """The few numbers that cannot be read from the weights; the defaults are SVD's own.

    Either every attention head of the UNet has `num_head_channels` channels (SVD: 64), or every level has `num_heads`.
    """

    num_head_channels: int = 64
    num_heads: int = -1
    image_encoder_heads: int = 16
    image_encoder_activation: str = "gelu"


@dataclass
class SVDParts:
    """`unet` and `vae` in ComfyUI's names without prefix, `image_encoder` in transformers' names.

    Each is empty where it was not asked for.
    """

    unet: dict[str, torch.Tensor]
    vae: dict[str, torch.Tensor]
    image_encoder: dict[str, torch.Tensor]
    config: SVDConfig = field(default_factory=SVDConfig)

    def check(self, source: str) -> None:
        """Raises WeightsError, naming the file `source`, unless the config can belong to these tensors.

        To be called before anything is built: a wrong number there takes gigabytes or ends in the host's own words.
        """
        _check_formats([self.unet, self.vae, self.image_encoder], source)
        config, by_level = self.config, self.config.num_head_channels == -1
        if config.image_encoder_activation not in ACTIVATIONS:
            raise WeightsError(
                f"Expected {', '.join(ACTIVATIONS)} as the image encoder's activation in {source}, found "
                f"{quoted(config.image_encoder_activation)}: ComfyUI has no other."
            )
        attention = [tensor for key, tensor in self.unet.items() if key.endswith(".attn1.to_q.weight")]
        encoder = [tensor for key, tensor in self.image_encoder.items() if key == "vision_model.pre_layrnorm.weight"]
        for name, networks in (
            ("num_heads" if by_level else "num_head_channels", attention),
            ("image_encoder_heads", encoder),
        ):
            number, widths = getattr(config, name), sorted({tensor.shape[0] for tensor in networks if tensor.ndim})
            if type(number) is not int or number < 1 or any(width % number for width in widths):
                raise WeightsError(
                    f"Expected as {name} in {source} a whole number that divides the attention's "
                    f"{', '.join(map(str, widths))} channels, found {quoted(number)}. Get the model again."
                )


def _check_formats(networks: list[dict[str, torch.Tensor]], source: str) -> None:
    for tensors in networks:
        for key, tensor in tensors.items():
            # The host's quantised weights are bytes, and have a description beside them; position_ids count.
            quantised = key.endswith("comfy_quant") or f"{key.rpartition('.')[0]}.comfy_quant" in tensors
            if not (tensor.is_floating_point() or quantised or key.endswith("position_ids")):
                raise WeightsError(
                    f"Expected floating-point numbers in {source}, found {tensor.dtype} in "
                    f"{plain_name(key)}. Get the model in fp16, bf16 or fp32."
                )


def read_single_file(path: Path, wanted: Collection[str] = PARTS) -> SVDParts:
    """The wanted parts of the SVD model in one checkpoint file.

    Raises WeightsError when the file is unreadable or lacks one of the three networks.
    """
    prefixes = {"UNet": UNET_PREFIX, "VAE": VAE_PREFIX, "CLIP image encoder": IMAGE_ENCODER_PREFIX}
    with SafetensorsFile(path) as file:
        keys = file.keys()
        missing = [part for part, prefix in prefixes.items() if not any(key.startswith(prefix) for key in keys)]
        if missing:
            seems = "" if has_temporal_unet(keys) else f" It seems to be {likely_kind(keys)}."
            raise WeightsError(
                f"Expected a Stable Video Diffusion checkpoint (UNet, VAE and CLIP image encoder in one "
                f"file), found {file.name} without its {' and '.join(missing)}.{seems} "
                "Choose svd.safetensors, svd_xt.safetensors or a model of their architecture."
            )
        refuse_image_decoder((key.removeprefix(VAE_PREFIX) for key in keys if key.startswith(VAE_PREFIX)), file.name)
        unet, vae, image_encoder = (
            {
                key.removeprefix(prefix): file.get_tensor(key)
                for key in keys
                if key.startswith(prefix) and part in wanted
            }
            for part, prefix in zip(PARTS, prefixes.values())
        )
        name, metadata = file.name, file.metadata
    if not any(key.startswith("vision_model.") for key in image_encoder):
        image_encoder = image_encoder_keys.tensors_to_transformers(image_encoder)
    config = _read_config(metadata, image_encoder)
    parts = SVDParts(unet, vae, image_encoder, config)
    parts.check(name)
    return parts


def write_single_file(
    parts: SVDParts, path: Path, metadata: dict[str, str] | None = None, overwrite: bool = False
) -> None:
    """Writes the parts of an SVD model as one checkpoint file.

    Raises WeightsError when the file exists and `overwrite` is off, or cannot be written.
    """
    tensors = {UNET_PREFIX + key: tensor for key, tensor in parts.unet.items()}
    tensors.update({VAE_PREFIX + key: tensor for key, tensor in parts.vae.items()})
    tensors.update(
        {
            IMAGE_ENCODER_PREFIX + key: tensor
            for key, tensor in image_encoder_keys.tensors_to_openclip(parts.image_encoder).items()
        }
    )
    save_tensors(path, tensors, {**(metadata or {}), _CONFIG: json.dumps(asdict(parts.config))}, overwrite)


def _read_config(metadata: dict[str, str], image_encoder: dict) -> SVDConfig:
    if _CONFIG in metadata:
        stored = parse_table(metadata[_CONFIG], f"the metadata {_CONFIG}")
        return SVDConfig(**{item.name: stored[item.name] for item in fields(SVDConfig) if item.name in stored})
    norm = image_encoder.get("vision_model.pre_layrnorm.weight")
    # ViT-H, which SVD uses, has 16 heads of 80 channels; every other CLIP has 64 channels a head.
    width = 1280 if norm is None or not norm.ndim else norm.shape[0]
    return SVDConfig(image_encoder_heads=16 if width == 1280 else max(1, width // 64))


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
    """The config of a diffusers folder: `unet` and `image_encoder` are its tables, `tensors` its UNet's."""
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
