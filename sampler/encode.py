"""Encodes two keyframes with the host's CLIP image encoder and VAE as the authors' release does."""

import comfy.clip_vision
import comfy.model_management
import comfy.sd
import torch

from .choices import check_choice
from .keyframe_conditioning import Conditioning, keyframe_conditioning
from .keyframes import FITS, add_augmentation_noise, clip_pixels, fit_picture, one_picture
from .noise import seeded_noise, stream_seed

_SHORTEST_CLIP = 2
_LATENT_PIXELS = 8


def encode_keyframes(clip_vision: comfy.clip_vision.ClipVisionModel, vae: comfy.sd.VAE, first: torch.Tensor,
                     last: torch.Tensor, width: int, height: int, frames: int, fps: int, motion_bucket: int,
                     augmentation: float, seed: int, fit: str) -> tuple[Conditioning, Conditioning, dict]:
    """(positive, negative, empty latent) for two keyframes, each `[1, height, width, channels]` in 0…1.

    One draw of augmentation noise serves both pictures. Raises ValueError, naming the input, for pictures, sizes or a
    number of frames that cannot be used.
    """
    _check_clip(width, height, frames)
    check_choice("fit", fit, FITS)
    pictures = [fit_picture(one_picture(picture, name), width, height, fit)
                for name, picture in (("first_keyframe", first), ("last_keyframe", last))]
    noise = seeded_noise((1, 3, height, width), stream_seed(seed, "augmentation"))
    embeddings = [image_embedding(clip_vision, picture) for picture in pictures]
    latents = [vae.encode(add_augmentation_noise(picture, noise, augmentation)) for picture in pictures]
    positive, negative = keyframe_conditioning(tuple(embeddings), tuple(latents), frames, fps, motion_bucket,
                                               augmentation)
    empty = torch.zeros([frames, 4, height // _LATENT_PIXELS, width // _LATENT_PIXELS],
                        device=comfy.model_management.intermediate_device())
    return positive, negative, {"samples": empty}


def image_embedding(clip_vision: comfy.clip_vision.ClipVisionModel, picture: torch.Tensor) -> torch.Tensor:
    """The CLIP embedding `[1, 1, channels]` of one picture, `[1, height, width, 3]` in 0…1."""
    comfy.model_management.load_model_gpu(clip_vision.patcher)
    pixels = clip_pixels(picture.to(clip_vision.load_device), clip_vision.image_size)
    embedding = clip_vision.model(pixel_values=pixels)[2]
    return embedding.unsqueeze(0).float().to(comfy.model_management.intermediate_device())


def _check_clip(width: int, height: int, frames: int) -> None:
    for name, size in (("width", width), ("height", height)):
        if size % _LATENT_PIXELS or size < _LATENT_PIXELS:
            raise ValueError(f"{name}: expected a multiple of {_LATENT_PIXELS}, found {size}. Choose "
                             f"{max(_LATENT_PIXELS, round(size / _LATENT_PIXELS) * _LATENT_PIXELS)}.")
    if frames < _SHORTEST_CLIP:
        raise ValueError(f"frames: expected at least {_SHORTEST_CLIP}, the two keyframes, found {frames}.")
