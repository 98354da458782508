"""Checks on the LATENT to sample: frames, noise mask, batch_index. `conditioning.py` compares it with the keyframes."""

import numbers
from collections.abc import Sequence
from typing import Any

import torch

from ..common.errors import quoted
from ..common.latents import LATENT_CHANNELS

_FORMATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# The host draws the noise of every index up to the largest.
_LARGEST_INDEX = 100_000


def check_samples(samples: torch.Tensor) -> None:
    """Raises ValueError for latents that are no batch of frames, or hold NaN or infinity."""
    if samples.ndim != 4 or min(samples.shape) == 0:
        raise ValueError(
            f"latent_image: expected latents of shape (frames, {LATENT_CHANNELS}, height, width), found "
            f"{tuple(samples.shape)}. Connect the latent of Encode Keyframes."
        )
    if samples.dtype not in _FORMATS:
        raise ValueError(
            f"latent_image: expected floating-point numbers, found {samples.dtype}. Check the node before it."
        )
    if not torch.isfinite(samples).all():
        raise ValueError("latent_image: expected numbers, found NaN or infinity. Check the node before it.")


def checked_mask(mask: Any) -> torch.Tensor | None:
    """A noise mask in float32, `[…, h, w]`, which the host resizes and repeats as its own sampler does; None: none."""
    if mask is None:
        return None
    right = isinstance(mask, torch.Tensor) and 2 <= mask.ndim <= 4 and min(mask.shape) > 0 and not mask.is_complex()
    # Resizing goes a little over the edge; another range, such as 0…255, goes far.
    if not right or not ((mask.float() >= -0.5) & (mask.float() <= 1.5)).all():
        found = (
            f"something of type {type(mask).__name__}"
            if not isinstance(mask, torch.Tensor)
            else f"one of shape {tuple(mask.shape)}"
            if not right
            else "one with NaN or numbers beyond 0…1"
        )
        raise ValueError(
            f"latent_image: expected a noise mask of shape (frames, height, width), found {found}. Check "
            "Set Latent Noise Mask."
        )
    return mask.float()


def check_batch_index(index: Sequence[int] | None, frames: int) -> None:
    """Raises ValueError for a batch_index that does not choose one noise for each frame."""
    if index is None:
        return
    numbers_of = getattr(index, "tolist", lambda: index)()
    right = isinstance(numbers_of, (list, tuple)) and len(numbers_of) == frames
    if not right or not all(
        isinstance(number, numbers.Integral) and 0 <= int(number) <= _LARGEST_INDEX for number in numbers_of
    ):
        raise ValueError(
            f"latent_image: expected a batch_index of {frames} whole numbers from 0 to {_LARGEST_INDEX}, "
            f"one for each frame, found {quoted(index)}. Connect the latent of Encode Keyframes."
        )
