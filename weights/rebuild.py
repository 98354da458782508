"""Networks that the host can build again from their files, as it can those of its own loaders.

Hosts with dynamic VRAM keep on a patcher how its network came about: `cached_patcher_init = (factory, arguments)`.
They call it for a second network of the same weights: with `disable_dynamic=True` for compiled models, hooks and deep
clones, and without for each further device (*Select Model Device*, multi-GPU).
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import comfy.model_patcher
import torch

from ..common.errors import WeightsError, quoted
from . import host as host_models
from .svd import read_folder, read_single_file


def load_network(part: str, path: Path):
    """The MODEL (part `unet`), CLIP_VISION (`image_encoder`) or VAE (`vae`) of a checkpoint or diffusers folder.

    Raises WeightsError when it is no complete SVD model.
    """
    network, layout = _build(part, path, None)
    remember(getattr(network, "patcher", network), network_patcher, part, path, layout)
    return network


def network_patcher(
    part: str, path: str, loaded: str, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """The patcher of the network again; `loaded`: the layout of what was loaded.

    Raises WeightsError when another model has taken the file's place.
    """
    try:
        network, _ = _build(part, Path(path), loaded, disable_dynamic=disable_dynamic)
    except WeightsError as error:
        raise WeightsError(f"Load SVD Model, model_name: {error}") from error
    return getattr(network, "patcher", network)


def remember(patcher: comfy.model_patcher.ModelPatcher, factory: Callable, *arguments) -> None:
    """Tells the host how to build the patcher's network again; paths are kept whole."""
    # Absolute: the server's working folder may be another by then.
    patcher.cached_patcher_init = (
        factory,
        tuple(str(value.absolute()) if isinstance(value, Path) else value for value in arguments),
    )


def layout_of(tensors: Mapping[str, torch.Tensor], *others: object) -> str:
    """A digest of the tensors' names and shapes, and of other values."""
    shapes = sorted((key, tuple(tensor.shape)) for key, tensor in tensors.items())
    return hashlib.sha256(repr((shapes, others)).encode()).hexdigest()


def check_layout(path: Path, layout: str, loaded: str | None) -> None:
    """Raises WeightsError when a file was loaded before and is of another layout now."""
    if loaded not in (None, layout):
        raise WeightsError(
            f"Expected {quoted(path.name)} as it was when it was loaded, found a model of other sizes "
            "in its place. Press R to refresh the lists, choose the file again and queue the workflow."
        )


def _build(part: str, path: Path, loaded: str | None, **options):
    parts = (read_folder if path.is_dir() else read_single_file)(path, (part,))
    tensors = getattr(parts, part)
    layout = layout_of(tensors, parts.config)
    check_layout(path, layout, loaded)
    if part == "vae":
        return host_models.build_vae(tensors, **options), layout
    build = {"unet": host_models.build_unet, "image_encoder": host_models.build_image_encoder}[part]
    return build(tensors, parts.config, **options), layout
