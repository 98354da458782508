"""SVD's UNet and image encoder in the host's own classes, so that its memory management, LoRA and patches work.

The host recognises SVD by the width 320 and builds its image encoder as ViT-H. For other widths the same classes are
built here with the numbers read from the weights; `vae.py` does so for the VAE.

Hosts with dynamic VRAM load weights one by one, and keep on a patcher how its network is built again:
`cached_patcher_init = (factory, arguments)`. They call it for a second network of the same weights: with
`disable_dynamic=True` (whole weights are loaded) for compiled models, hooks and deep clones, and without for each
further device (*Select Model Device*, multi-GPU).
"""

import hashlib
import inspect
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import torch

from ..common.errors import WeightsError, quoted
from .architecture import image_encoder_numbers, unet_numbers
from .svd import SVDConfig

_KNOWS_DYNAMIC = "disable_dynamic" in inspect.signature(comfy.sd.load_diffusion_model_state_dict).parameters


def build_unet(
    tensors: dict[str, torch.Tensor], config: SVDConfig, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """The UNet as the host's MODEL; `tensors` in ComfyUI's names without prefix.

    Raises WeightsError when they are no SVD UNet, or not all of one.
    """
    with _recognised(unet_numbers(tensors, config), config):
        options = {"disable_dynamic": disable_dynamic} if _KNOWS_DYNAMIC else {}
        model = comfy.sd.load_diffusion_model_state_dict(dict(tensors), **options)
    if model is None:
        raise WeightsError("Expected the UNet of Stable Video Diffusion, found one that ComfyUI does not recognise.")
    return model


@contextmanager
def _recognised(detected: dict, config: SVDConfig) -> Iterator[None]:
    # The host picks a model's class from this list; ours, the host's SVD with other numbers, is in it only meanwhile.
    stock = comfy.supported_models.SVD_img2vid
    numbers = {key: detected[key] for key in ("model_channels", "context_dim", "transformer_depth")}
    heads = {"num_heads": config.num_heads, "num_head_channels": config.num_head_channels}
    width = type(
        "SVD_img2vid",
        (stock,),
        {"unet_config": {**stock.unet_config, **numbers}, "unet_extra_config": {**stock.unet_extra_config, **heads}},
    )
    comfy.supported_models.models.insert(0, width)
    try:
        yield
    finally:
        comfy.supported_models.models.remove(width)


def build_image_encoder(
    tensors: dict[str, torch.Tensor], config: SVDConfig, disable_dynamic: bool = False
) -> comfy.clip_vision.ClipVisionModel:
    """The CLIP image encoder as the host's CLIP_VISION; `tensors` in transformers' names.

    Raises WeightsError when they are none, or not all of one.
    """
    numbers = image_encoder_numbers(tensors, config)
    with tempfile.TemporaryDirectory() as folder:
        # Older hosts take these numbers from a JSON file only.
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(numbers), encoding="utf-8")
        encoder = comfy.clip_vision.ClipVisionModel(str(path))
    if disable_dynamic:
        patcher = encoder.patcher
        encoder.patcher = core_patcher(encoder.model, patcher.load_device, patcher.offload_device, disable_dynamic)
    encoder.load_sd(dict(tensors))
    return encoder


def core_patcher(
    network: torch.nn.Module, load_device: torch.device, offload_device: torch.device, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """The patcher that the host gives its own networks; `disable_dynamic`: one that always loads whole weights."""
    # Looked up each time: the host puts its dynamic patcher there while it starts.
    core = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    kind = comfy.model_patcher.ModelPatcher if disable_dynamic else core
    return kind(network, load_device=load_device, offload_device=offload_device)


def is_dynamic(patcher: comfy.model_patcher.ModelPatcher) -> bool:
    """Whether the host loads this network's weights one by one, as they are used."""
    return getattr(patcher, "is_dynamic", lambda: False)()


def free_memory(patcher: comfy.model_patcher.ModelPatcher, device: torch.device) -> float:
    """Bytes free on the device for this patcher's network, with what dynamic VRAM can give back."""
    free: Any = getattr(patcher, "get_free_memory", comfy.model_management.get_free_memory)
    return free(device)


def remember_factory(patcher: comfy.model_patcher.ModelPatcher, factory: Callable, *arguments) -> None:
    """Tells the host to call `factory(*arguments)` where it needs the patcher's network again."""
    # Absolute: the server's working folder may have changed by then.
    absolute = tuple(str(value.absolute()) if isinstance(value, Path) else value for value in arguments)
    # Older hosts do not declare the attribute, and never read it.
    patcher.cached_patcher_init = (factory, absolute)  # pyright: ignore[reportAttributeAccessIssue]


def layout_of(tensors: Mapping[str, torch.Tensor], *others: object) -> str:
    """A digest of the tensors' names and shapes, and of other values."""
    shapes = sorted((key, tuple(tensor.shape)) for key, tensor in tensors.items())
    return hashlib.sha256(repr((shapes, others)).encode()).hexdigest()


def check_layout(path: Path, layout: str, loaded: str | None) -> None:
    """Raises WeightsError when a file had the layout `loaded` before, and has another one now."""
    if loaded not in (None, layout):
        raise WeightsError(
            f"Expected {quoted(path.name)} as it was when it was loaded, found a model of other sizes "
            "in its place. Press R to refresh the lists, choose the file again and queue the workflow."
        )
