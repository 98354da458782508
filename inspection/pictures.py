"""Between ComfyUI's IMAGE and Pillow's pictures, and the lettering on them."""

import math

import numpy as np
import torch
from PIL import Image, ImageFont

from ..common.intermediate import handed_on
from ..common.remarks import remark


def checked_frames(images: torch.Tensor, name: str) -> torch.Tensor:
    """The pictures in a number format that torch computes with; says when colours are beyond 0…1.

    Raises ValueError, naming the input, for what is no batch of pictures.
    """
    if images.ndim != 4 or min(images.shape) == 0 or images.shape[3] == 2 or images.is_complex():
        raise ValueError(
            f"{name}: expected pictures of shape (frames, height, width, channels), found "
            f"{tuple(images.shape)}. Connect the frames of a video."
        )
    if not images.is_floating_point() or images.element_size() == 1:
        images = images.float()
    beyond = [value for value in (float(images.min()), float(images.max())) if not -0.5 <= value <= 1.5]
    if beyond and all(math.isfinite(value) for value in beyond):
        remark(f"{name}: expected colours from 0 to 1, found {beyond[-1]:.4g}. They are shown cut off.")
    return images


def holds_numbers(images: torch.Tensor) -> torch.Tensor:
    """Whether each frame is free of NaN and infinity, `[n]`."""
    return torch.stack([torch.isfinite(frame).all() for frame in images])


def to_picture(frame: torch.Tensor) -> Image.Image:
    """RGB picture of one frame, `[height, width, channels]` in 0…1: grey is repeated, alpha is dropped."""
    pixels = (frame.detach().float().cpu().nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return Image.fromarray(pixels[..., :3] if pixels.shape[-1] > 1 else np.repeat(pixels, 3, axis=-1))


def to_image(picture: Image.Image) -> torch.Tensor:
    """IMAGE, `[1, height, width, 3]` in 0…1."""
    return handed_on(torch.from_numpy(np.asarray(picture.convert("RGB")).astype(np.float32) / 255)[None])


def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Pillow's own font, `size` pixels high where Pillow draws outlines."""
    return ImageFont.load_default(size)
