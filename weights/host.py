"""Builds an SVD model of any width with the host's own classes, so that its memory management, LoRA and patches work.

ComfyUI recognises SVD by the width 320, builds its VAE with 128 channels and its image encoder as ViT-H. For other
widths the same classes are built here with the numbers read from the weights.

`disable_dynamic` everywhere: the patcher loads whole weights also where the host's own would load them one by one.

The host's patcher around a network, as hosts with dynamic VRAM and older ones have it.
"""

import inspect
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import comfy.clip_vision
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import torch

from .architecture import image_encoder_numbers, unet_numbers, vae_network, vae_numbers
from .patchers import core_patcher, is_dynamic
from .svd import SVDConfig
from .vae import ClipVAE

_KNOWS_DYNAMIC = "disable_dynamic" in inspect.signature(comfy.sd.load_diffusion_model_state_dict).parameters


def build_unet(
    tensors: dict[str, torch.Tensor], config: SVDConfig, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """The UNet as the host's MODEL; `tensors` in ComfyUI's names without prefix.

    Raises WeightsError when they are no SVD UNet, or not all of one.
    """
    with _recognised(unet_numbers(tensors, config), config):
        options = {"disable_dynamic": disable_dynamic} if _KNOWS_DYNAMIC else {}
        return comfy.sd.load_diffusion_model_state_dict(dict(tensors), **options)


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


def build_vae(tensors: dict[str, torch.Tensor], disable_dynamic: bool = False) -> comfy.sd.VAE:
    """The temporal-decoder VAE as the host's VAE; `tensors` in ComfyUI's names without prefix.

    Raises WeightsError when they are no temporal-decoder VAE, or not all of one.
    """
    numbers = vae_numbers(tensors)
    full_size = numbers["ch"] == 128 and numbers["ch_mult"] == [1, 2, 4, 4] and numbers["num_res_blocks"] == 2
    # Only the host knows how to load its own dynamically; it has no way to be told not to.
    if full_size and not disable_dynamic:
        return ClipVAE(sd=dict(tensors))
    # A plain autoencoder of these numbers first: it sets up everything about a VAE that is not its network.
    channels = numbers["z_channels"]
    vae = ClipVAE(
        sd=_with_quantisation(tensors, channels), config={"params": {"ddconfig": numbers, "embed_dim": channels}}
    )
    vae.first_stage_model = network = vae_network(numbers).to(vae.vae_dtype)
    if hasattr(comfy.model_management, "archive_model_dtypes"):
        # For a patcher that keeps the weights in their own format until they are used.
        comfy.model_management.archive_model_dtypes(network)
    vae.patcher = core_patcher(network, vae.patcher.load_device, vae.patcher.offload_device, disable_dynamic)
    network.load_state_dict(tensors, strict=False, assign=is_dynamic(vae.patcher))
    vae.size = None
    vae.model_size()
    return vae


def _with_quantisation(tensors: dict[str, torch.Tensor], channels: int) -> dict[str, torch.Tensor]:
    # The plain autoencoder has two 1×1 convolutions that SVD's lacks; without them the host warns of missing weights.
    return {
        **tensors,
        "quant_conv.weight": torch.eye(2 * channels)[..., None, None],
        "quant_conv.bias": torch.zeros(2 * channels),
        "post_quant_conv.weight": torch.eye(channels)[..., None, None],
        "post_quant_conv.bias": torch.zeros(channels),
    }
