"""What the networks of a file are known by, from the names of its tensors alone."""

import re
from collections.abc import Iterable, Mapping

from ..common.errors import WeightsError

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
IMAGE_ENCODER_PREFIX = "conditioner.embedders.0.open_clip.model.visual."
PREFIXES = {"unet": (UNET_PREFIX, "diffusion_model."), "vae": (VAE_PREFIX,), "image_encoder": (IMAGE_ENCODER_PREFIX,)}
# A tensor that each network has, in ComfyUI's (or OpenCLIP's) and in diffusers' names.
SIGNS = {
    "unet": ("input_blocks.0.0.weight", "conv_in.weight"),
    "vae": ("decoder.conv_in.weight",),
    "image_encoder": ("vision_model.pre_layrnorm.weight", "ln_pre.weight"),
}
# What files that users mistake for SVD are known by; the first that fits counts.
_OTHERS = [
    (r"lora_(up|down|A|B)\b|lora_unet", "a LoRA"),
    (r"(^|\.)(controlnet|control_model|input_hint_block)", "a ControlNet"),
    (r"motion_modules\.", "an AnimateDiff motion module"),
    (r"double_blocks\.", "a Flux or Hunyuan model"),
    (r"joint_blocks\.", "a Stable Diffusion 3 model"),
    (r"blocks\.\d+\.cross_attn\.norm_k", "a Wan model"),
    (r"^optimizer\.|exp_avg", "a training checkpoint"),
    (r"input_blocks\.|down_blocks\.", "a model of Stable Diffusion 1, 2 or XL"),
    (r"text_model\.|token_embedding", "a text encoder"),
    (r"^(trained\.|latent)", "a file of this pack's training or of a resumed sequence"),
]


def parts_of(stored: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """{`unet`, `vae`, `image_encoder`: its tensors without prefix}, of whatever model; only those that there are."""
    parts = {}
    for part, prefixes in PREFIXES.items():
        for prefix in (*prefixes, ""):
            tensors = {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}
            if any(sign in tensors for sign in SIGNS[part]):
                parts[part] = tensors
                break
    return parts


def has_image_decoder(vae: Iterable[str]) -> bool:
    """Whether a VAE, without prefix, decodes every frame alone: that of SVD's `…_image_decoder` files, or of another
    model.
    """
    vae = list(vae)
    return any(key.startswith("decoder.mid") for key in vae) and not any(key.endswith("mix_factor") for key in vae)


def refuse_image_decoder(vae: Iterable[str], name: str) -> None:
    """Raises WeightsError, naming the file or folder, when its VAE decodes every frame alone."""
    if has_image_decoder(vae):
        raise WeightsError(
            f"Expected SVD's temporal decoder, found {name} with an image decoder, which decodes every "
            "frame alone (svd_image_decoder.safetensors and svd_xt_image_decoder.safetensors have it). "
            "Choose svd.safetensors or svd_xt.safetensors instead."
        )


def has_temporal_unet(keys: Iterable[str]) -> bool:
    """Whether there is a UNet that looks along time, as SVD's does."""
    return any(".time_stack." in key or ".temporal_transformer_blocks." in key for key in keys)


def likely_kind(stored: Iterable[str]) -> str:
    """What a file that is no SVD model seems to be."""
    stored = list(stored)
    for pattern, kind in _OTHERS:
        if any(re.search(pattern, key) for key in stored):
            return kind
    return "of a kind that is not known here"
