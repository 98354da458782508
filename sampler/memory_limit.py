"""Whether one video fits into a device at all, told before the first step instead of by running out of memory.

The host's own estimate decides nothing here: it is several times what a video takes, and the host goes on below it.
Only sizes that cannot fit, however much is offloaded, are refused.
"""

import platform

import torch

from ..common.latents import LATENT_PIXELS

_SIZE_STEP = 64
# Together where the UNet comes back to the highest resolution: its features (2 × channels) and what it kept on the way
# down (1 ×) are joined (3 × more), and two more are kept for later (2 ×).
_LEAST_CHANNELS = 8


def memory_limit(device: torch.device) -> float | None:
    """Bytes that torch can have on the device at most; None where there is no firm figure.

    A CPU and Apple's GPUs swap, and on Windows the driver lends a GPU ordinary memory unless torch was given a limit
    of its own (`torch.cuda.set_per_process_memory_fraction`).
    """
    if device.type != "cuda":
        return None
    fraction = getattr(torch.cuda, "get_per_process_memory_fraction", lambda _: 1.0)(device)
    if fraction >= 1 and platform.system() == "Windows":
        return None
    return fraction * torch.cuda.get_device_properties(device).total_memory


def least_bytes(frames: int, height: int, width: int, channels: int, dtype: torch.dtype) -> int:
    """What one video through the UNet takes at least, beside the weights; `height` and `width` of its latents.

    `channels`: the UNet's width at the highest resolution, 320 in SVD.
    """
    return _LEAST_CHANNELS * channels * frames * height * width * dtype.itemsize


def check_one_video_fits(model, shape: torch.Size, name: str = "latent_image", place: str = "Encode Keyframes") -> None:
    """Raises ValueError when a video of latents `shape`, `[frames, 4, h, w]`, cannot fit into the MODEL's device.

    `name`: the input that the message names; `place`: where the size is set.
    """
    limit = memory_limit(model.load_device)
    if limit is None:
        return
    frames, _, height, width = shape
    channels = model.model.diffusion_model.model_channels
    dtype = model.model.manual_cast_dtype or model.model.get_dtype()
    needed = least_bytes(frames, height, width, channels, dtype)
    if needed > limit:
        raise ValueError(
            f"{name}: expected a video that fits into the {limit / 2**30:.1f} GiB of {model.load_device}, "
            f"found {frames} frames at {LATENT_PIXELS * width}x{LATENT_PIXELS * height}, which take at least "
            f"{needed / 2**30:.1f} GiB. {_advice(limit / (needed / height / width), shape, place)}"
        )


def no_room(shape: torch.Size) -> str:
    """What to say when the device ran out of memory with one video, `[frames, 4, h, w]`, at a time."""
    frames, _, height, width = shape
    return (
        f"Not even one video of {frames} frames at {LATENT_PIXELS * width}x{LATENT_PIXELS * height} fits into "
        "the memory that is free: choose fewer frames or a smaller size"
    )


def _advice(positions: float, shape: torch.Size, place: str) -> str:
    size = largest_size(positions, shape[2], shape[3])
    if size is None:
        return f"No size fits with {shape[0]} frames: choose fewer frames."
    return f"The largest size that fits with {shape[0]} frames is {size[0]}x{size[1]}: set it in {place}."


def largest_size(positions: float, height: int, width: int) -> tuple[int, int] | None:
    """(width, height) in pixels, multiples of 64, nearest to the shape of the latents and of no more positions."""
    step = _SIZE_STEP // LATENT_PIXELS
    for wide in range(width // step * step, 0, -step):
        high = max(step, round(wide * height / width / step) * step)
        if high * wide <= positions:
            return LATENT_PIXELS * wide, LATENT_PIXELS * high
    return None
