"""Between ComfyUI's IMAGE and Pillow's pictures, and the lettering on them."""

import numpy as np
import torch
from PIL import Image, ImageFont

from .intermediate import handed_on


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
