"""Encodes two keyframes with the host's CLIP image encoder and VAE as the authors' release does."""

import logging

import comfy.clip_model
import comfy.clip_vision
import comfy.model_management
import comfy.sd
import torch

from ..weights.out_of_memory import is_out_of_memory
from .choices import check_choice
from .intermediate import handed_on
from .keyframe_conditioning import Conditioning, keyframe_conditioning
from .keyframes import FITS, add_augmentation_noise, clip_pixels, fit_picture, one_picture
from .noise import seeded_noise, stream_seed

logger = logging.getLogger(__name__)

_SHORTEST_CLIP = 2
_LATENT_PIXELS, _LATENT_CHANNELS = 8, 4
_CLIP = "clip_vision_model"


def encode_keyframes(
    clip_vision: comfy.clip_vision.ClipVisionModel,
    vae: comfy.sd.VAE,
    first: torch.Tensor,
    last: torch.Tensor,
    width: int,
    height: int,
    frames: int,
    fps: int,
    motion_bucket: int,
    augmentation: float,
    seed: int,
    fit: str,
) -> tuple[Conditioning, Conditioning, dict]:
    """(positive, negative, empty latent) for two keyframes, each `[1, height, width, channels]` in 0…1.

    One draw of augmentation noise serves both pictures. Raises ValueError, naming the input, for pictures, sizes or a
    number of frames that cannot be used.
    """
    _check_clip(width, height, frames)
    check_choice("fit", fit, FITS)
    pictures = [
        fit_picture(one_picture(picture, name), width, height, fit)
        for name, picture in (("first_keyframe", first), ("last_keyframe", last))
    ]
    noise = seeded_noise((1, 3, height, width), stream_seed(seed, "augmentation"))
    embeddings = [image_embedding(clip_vision, picture) for picture in pictures]
    latents = [_latent(vae, add_augmentation_noise(picture, noise, augmentation)) for picture in pictures]
    positive, negative = keyframe_conditioning(
        tuple(embeddings), tuple(latents), frames, fps, motion_bucket, augmentation
    )
    empty = handed_on(torch.zeros([frames, _LATENT_CHANNELS, height // _LATENT_PIXELS, width // _LATENT_PIXELS]))
    return positive, negative, {"samples": empty}


def image_embedding(clip_vision: comfy.clip_vision.ClipVisionModel, picture: torch.Tensor) -> torch.Tensor:
    """The CLIP embedding `[1, 1, channels]` of one picture, `[1, height, width, 3]` in 0…1.

    Raises ValueError, naming the input, for a model that is no CLIP or gives NaN.
    """
    is_clip = isinstance(clip_vision.model, comfy.clip_model.CLIPVisionModelProjection)
    # Older hosts do not keep the kind: there the sampler sees the embedding's width.
    kind = getattr(clip_vision, "model_type", _CLIP) if is_clip else type(clip_vision.model).__name__
    if kind != _CLIP:
        raise ValueError(
            f"clip_vision: expected the CLIP image encoder of Stable Video Diffusion, found {kind}. "
            "Connect Load SVD Model."
        )
    embedding = _embedding(clip_vision, picture)
    if embedding is None:
        logger.warning("Encode Keyframes: the device ran out of memory, encoding once more with no other model on it.")
        comfy.model_management.unload_all_models()
        comfy.model_management.soft_empty_cache()
        embedding = _embedding(clip_vision, picture, last_try=True)
    if not torch.isfinite(embedding).all():
        raise ValueError(
            "clip_vision: expected numbers, found NaN or infinity in what it makes of a keyframe. Check "
            "its file, or start ComfyUI with --fp32-text-enc."
        )
    return embedding.unsqueeze(0).float().to(comfy.model_management.intermediate_device())


def _embedding(clip_vision, picture: torch.Tensor, last_try: bool = False) -> torch.Tensor | None:
    """None where the device runs out of memory, unless it is the last try."""
    try:
        comfy.model_management.load_model_gpu(clip_vision.patcher)
        pixels = clip_pixels(picture.to(clip_vision.load_device), clip_vision.image_size)
        return clip_vision.model(pixel_values=pixels)[2]
    except Exception as error:
        if last_try or not is_out_of_memory(error):
            raise
    return None


def _latent(vae: comfy.sd.VAE, picture: torch.Tensor) -> torch.Tensor:
    wanted = (1, _LATENT_CHANNELS, *(size // _LATENT_PIXELS for size in picture.shape[1:3]))
    # A video's VAE takes pictures in another shape.
    latent = _encoded(vae, picture) if vae.latent_dim == 2 else None
    if latent is None or latent.shape != wanted:
        found = "one for other data than pictures" if latent is None else f"latents of shape {tuple(latent.shape)}"
        raise ValueError(
            f"vae: expected the VAE of Stable Video Diffusion, which makes latents of shape {wanted}, "
            f"found {found}. Connect Load SVD Model."
        )
    if not torch.isfinite(latent).all():
        raise ValueError(
            "vae: expected numbers, found NaN or infinity in what it makes of a keyframe. Check its file, "
            "lower noise_augmentation, or start ComfyUI with --fp32-vae."
        )
    return latent


def _encoded(vae: comfy.sd.VAE, picture: torch.Tensor) -> torch.Tensor:
    """In tiles where the device runs out of memory, as the host's VAE does for the errors that it knows."""
    try:
        return vae.encode(picture)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    logger.warning("Encode Keyframes: the device ran out of memory, encoding the picture in tiles.")
    comfy.model_management.soft_empty_cache()
    return vae.encode_tiled(picture)


def _check_clip(width: int, height: int, frames: int) -> None:
    for name, size in (("width", width), ("height", height)):
        if size % _LATENT_PIXELS or size < _LATENT_PIXELS:
            raise ValueError(
                f"{name}: expected a multiple of {_LATENT_PIXELS}, found {size}. Choose "
                f"{max(_LATENT_PIXELS, round(size / _LATENT_PIXELS) * _LATENT_PIXELS)}."
            )
    if frames < _SHORTEST_CLIP:
        raise ValueError(f"frames: expected at least {_SHORTEST_CLIP}, the two keyframes, found {frames}.")
