"""Keyframe pictures as conditioning, encoded by the host's CLIP image encoder and VAE as in the authors' release.

Method in section 3.1 of Wang et al., arXiv 2408.15239. Pictures are `[1, height, width, channels]` in 0…1, as ComfyUI's
IMAGE.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import comfy.clip_model
import comfy.clip_vision
import comfy.model_management
import comfy.sd
import torch
import torch.nn.functional as F

from ..common.intermediate import handed_on
from ..common.latents import LATENT_PIXELS, latent_shape
from ..common.out_of_memory import is_out_of_memory
from .conditioning import Conditioning, MiddleKeyframeLatents, keyframe_conditioning
from .method.alternating import KeyframeLatents
from .method.noise import seeded_noise, stream_seed
from .settings import check_choice

logger = logging.getLogger(__name__)

FITS = ("crop", "stretch", "pad")
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
_SMALLEST_SIDE = 8
# Resizing by bicubic or Lanczos goes a little over the edge; another range, such as 0…255, goes far.
_OVERSHOOT = 0.5
_SHORTEST_CLIP = 2
_CLIP = "clip_vision_model"


@dataclass(frozen=True)
class MiddleKeyframe:
    """A picture inside a clip: `[1, h, w, 3]`, its frame, counted from 0, and how strongly it is led to it (0…1)."""

    picture: torch.Tensor
    frame: int
    strength: float


def add_middle_keyframe(
    keyframes: Sequence[MiddleKeyframe], image: torch.Tensor, frame: int, strength: float
) -> tuple[MiddleKeyframe, ...]:
    """The keyframes and one more. Raises ValueError, naming the input, for a picture that cannot be used, or a frame
    that has a keyframe already.
    """
    if any(each.frame == frame for each in keyframes):
        raise ValueError(
            f"frame: expected a frame that no other middle keyframe has, found {frame}, which is in middle_keyframes "
            "already. Change one of them."
        )
    return (*keyframes, MiddleKeyframe(one_picture(image, "image"), frame, strength))


def encode_keyframes(
    clip_vision: comfy.clip_vision.ClipVisionModel,
    vae: comfy.sd.VAE,
    first: torch.Tensor | None,
    last: torch.Tensor | None,
    *,
    width: int,
    height: int,
    frames: int,
    fps: int,
    motion_bucket: int,
    noise_augmentation: float,
    seed: int,
    fit: str,
    middle: Sequence[MiddleKeyframe] = (),
    separate_noise: bool = False,
) -> tuple[Conditioning, Conditioning, dict]:
    """(positive, negative, empty latent) for two keyframes, each `[1, height, width, channels]` in 0…1.

    `first` is None for a video that leads up to the last one alone. One draw of augmentation noise serves both
    pictures, as in the release of Wang et al.; `separate_noise`: each has one of its own, as in that of ViBiDSampler
    (arXiv 2410.05651). `middle`, those inside the clip, have none. Raises ValueError, naming the input, for pictures,
    sizes or a number of frames that cannot be used.
    """
    _check_clip(width, height, frames)
    check_choice("fit", fit, FITS)
    _check_middle(middle, frames)
    if last is None:
        raise ValueError(
            "last_keyframe: expected a picture, found none. Connect the one that the video ends with; for a video from "
            "its first picture alone use ComfyUI's SVD_img2vid_Conditioning and KSampler."
        )
    pictures = [
        fit_picture(one_picture(picture, name), width, height, fit)
        for name, picture in (("first_keyframe", first), ("last_keyframe", last))
        if picture is not None
    ]
    noise = [
        seeded_noise((1, 3, height, width), stream_seed(seed, *stream))
        for stream in (("augmentation",), ("augmentation", "last") if separate_noise else ("augmentation",))
    ]
    embeddings = [image_embedding(clip_vision, picture) for picture in pictures]
    latents = [
        _latent(vae, add_augmentation_noise(picture, draw, noise_augmentation))
        # Alone, the last one keeps its own draw.
        for picture, draw in zip(pictures, noise[-len(pictures) :], strict=True)
    ]
    # What the alternating strategies lead to.
    clean = [_latent(vae, picture) for picture in pictures] if noise_augmentation and first is not None else latents
    if first is None:
        embeddings, latents = [None, *embeddings], [None, *latents]
    positive, negative = keyframe_conditioning(
        (embeddings[0], embeddings[1]),
        (latents[0], latents[1]),
        frames,
        fps,
        motion_bucket,
        noise_augmentation,
        middle=_encoded_middle(vae, middle, width, height, fit),
        clean=None if first is None else KeyframeLatents(*clean),
    )
    empty = handed_on(torch.zeros(latent_shape(frames, width, height)))
    return positive, negative, {"samples": empty}


def _check_clip(width: int, height: int, frames: int) -> None:
    for name, size in (("width", width), ("height", height)):
        if size % LATENT_PIXELS or size < LATENT_PIXELS:
            raise ValueError(
                f"{name}: expected a multiple of {LATENT_PIXELS}, found {size}. Choose "
                f"{max(LATENT_PIXELS, round(size / LATENT_PIXELS) * LATENT_PIXELS)}."
            )
    if frames < _SHORTEST_CLIP:
        raise ValueError(f"frames: expected at least {_SHORTEST_CLIP}, the two keyframes, found {frames}.")


def _check_middle(middle: Sequence[MiddleKeyframe], frames: int) -> None:
    positions = [each.frame for each in middle]
    for position in positions:
        if not 0 < position < frames - 1:
            between = f"a frame from 1 to {frames - 2}" if frames > _SHORTEST_CLIP else "none, with 2 frames"
            raise ValueError(
                f"middle_keyframes: expected {between}, between the first and the last of the clip, found {position}. "
                "Change frame in Middle Keyframe, or frames here."
            )
        if positions.count(position) > 1:
            raise ValueError(
                f"middle_keyframes: expected one keyframe at frame {position}, found {positions.count(position)}. "
                "Change frame in one of the Middle Keyframe nodes."
            )


def _encoded_middle(
    vae: comfy.sd.VAE, middle: Sequence[MiddleKeyframe], width: int, height: int, fit: str
) -> MiddleKeyframeLatents | None:
    """Those of a strength above 0; the frames become these latents, so there is no augmentation noise in them."""
    counting = sorted((each for each in middle if each.strength > 0), key=lambda each: each.frame)
    if not counting:
        return None
    latents = [_latent(vae, fit_picture(each.picture, width, height, fit)) for each in counting]
    return MiddleKeyframeLatents(
        torch.cat(latents), tuple(each.frame for each in counting), tuple(each.strength for each in counting)
    )


def one_picture(image: torch.Tensor, name: str) -> torch.Tensor:
    """`[1, height, width, 3]`, float32, of one IMAGE: grey is repeated to RGB, alpha is dropped, an overshoot cut off.

    Raises ValueError, naming the input, for a batch, a picture below 8×8, another number of channels, NaN, infinity, or
    colours beyond −0.5…1.5.
    """
    if image.ndim != 4 or image.shape[0] != 1:
        count = image.shape[0] if image.ndim == 4 else f"a tensor of shape {tuple(image.shape)}"
        raise ValueError(f"{name}: expected one picture, found {count}. Pick one with ImageFromBatch.")
    if min(image.shape[1:3]) < _SMALLEST_SIDE:
        raise ValueError(
            f"{name}: expected a picture of at least {_SMALLEST_SIDE}×{_SMALLEST_SIDE} pixels, found "
            f"{image.shape[2]}×{image.shape[1]}. Connect the keyframe itself."
        )
    if image.shape[3] not in (1, 3, 4):
        raise ValueError(f"{name}: expected 1, 3 or 4 channels, found {image.shape[3]}. Connect an ordinary image.")
    if image.is_complex():
        raise ValueError(f"{name}: expected colours from 0 to 1, found complex numbers. Check the node before it.")
    image = (image.expand(-1, -1, -1, 3) if image.shape[3] == 1 else image[..., :3]).float().contiguous()
    if not torch.isfinite(image).all():
        raise ValueError(f"{name}: expected colours from 0 to 1, found NaN or infinity. Check the node before it.")
    darkest, brightest = float(image.min()), float(image.max())
    if darkest < -_OVERSHOOT or brightest > 1 + _OVERSHOOT:
        raise ValueError(
            f"{name}: expected colours from 0 to 1, found {darkest:.4g} to {brightest:.4g}. Scale them in "
            "the node before it."
        )
    # A chain of many large photos would otherwise take twice their memory.
    return image if darkest >= 0 and brightest <= 1 else image.clamp(0, 1)


def fit_picture(image: torch.Tensor, width: int, height: int, fit: str) -> torch.Tensor:
    """`[1, height, width, 3]`: cropped at the centre, stretched, or padded with black to the video's size."""
    if image.shape[1:3] == (height, width):
        return image
    scale = {"crop": max, "pad": min}.get(fit)
    if scale is None:
        return _resize(image, width, height)
    factor = scale(width / image.shape[2], height / image.shape[1])
    inner_width, inner_height = round(image.shape[2] * factor), round(image.shape[1] * factor)
    resized = _resize(image, max(inner_width, 1), max(inner_height, 1))
    left, top = (width - resized.shape[2]) // 2, (height - resized.shape[1]) // 2
    # Negative padding crops.
    return F.pad(resized, (0, 0, left, width - resized.shape[2] - left, top, height - resized.shape[1] - top))


def add_augmentation_noise(image: torch.Tensor, noise: torch.Tensor, strength: float) -> torch.Tensor:
    """image + strength · noise, the noise being added in −1…1.

    `image`: `[1, height, width, 3]` in 0…1; `noise`: N(0, 1), `[1, 3, height, width]`; the result may leave 0…1.
    """
    # One unit in −1…1 is half a unit in 0…1.
    return image + strength / 2 * noise.movedim(1, -1).to(image)


def clip_pixels(image: torch.Tensor, size: int) -> torch.Tensor:
    """What the CLIP image encoder sees: the whole picture, blurred and resized to a square in −1…1, then normalised.

    `[1, height, width, 3]` in 0…1 → `[1, 3, size, size]`. The aspect is not kept and nothing is rounded, as in the
    release; ComfyUI's own preparation crops the centre and rounds to 8 bits.
    """
    pixels = image.movedim(-1, 1).float() * 2 - 1
    pixels = F.interpolate(_blur_before_resizing(pixels, size), (size, size), mode="bicubic", align_corners=True)
    mean, deviation = (torch.tensor(values).reshape(1, 3, 1, 1).to(pixels) for values in (_CLIP_MEAN, _CLIP_DEVIATION))
    return ((pixels + 1) / 2 - mean) / deviation


def _resize(image: torch.Tensor, width: int, height: int) -> torch.Tensor:
    pixels = F.interpolate(image.movedim(-1, 1), (height, width), mode="bicubic", antialias=True)
    return pixels.clamp(0, 1).movedim(1, -1)


def _blur_before_resizing(pixels: torch.Tensor, size: int) -> torch.Tensor:
    # A Gaussian of half the pixels that fall together (σ = (factor − 1) / 2) keeps the resized picture from aliasing.
    for dimension in (2, 3):
        sigma = max((pixels.shape[dimension] / size - 1) / 2, 0.001)
        taps = int(max(4 * sigma, 3)) | 1
        distances = torch.arange(taps, dtype=pixels.dtype, device=pixels.device) - taps // 2
        kernel = torch.exp(-(distances**2) / (2 * sigma**2))
        kernel = (kernel / kernel.sum()).reshape((1, 1, taps, 1) if dimension == 2 else (1, 1, 1, taps))
        padding = (0, 0, taps // 2, taps // 2) if dimension == 2 else (taps // 2, taps // 2, 0, 0)
        padded = F.pad(pixels, padding, mode="reflect" if pixels.shape[dimension] > taps // 2 else "replicate")
        pixels = F.conv2d(padded, kernel.expand(3, 1, -1, -1), groups=3)
    return pixels


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
    if embedding is None or not torch.isfinite(embedding).all():
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
    height, width = picture.shape[1:3]
    wanted = latent_shape(1, width, height)
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
        return vae.encode(picture)  # pyright: ignore[reportReturnType] - a tensor, where latents are of pictures
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    logger.warning("Encode Keyframes: the device ran out of memory, encoding the picture in tiles.")
    comfy.model_management.soft_empty_cache()
    return vae.encode_tiled(picture)
