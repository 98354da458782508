"""Reads and writes a single-file SVD checkpoint, in the names of Stability AI's own `svd.safetensors`."""

import json
from collections.abc import Collection
from dataclasses import asdict, fields
from pathlib import Path

from . import image_encoder_keys
from .errors import WeightsError
from .kinds import IMAGE_ENCODER_PREFIX, UNET_PREFIX, VAE_PREFIX, has_temporal_unet, likely_kind, refuse_image_decoder
from .safetensors_files import SafetensorsFile, save_tensors
from .svd_parts import PARTS, SVDConfig, SVDParts
from .tables import parse_table

_CONFIG = "svd_config"


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
