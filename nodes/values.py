"""Values of inputs, compared with what the input's schema says of them."""

import math
import numbers
from typing import Any

import numpy
import torch
from comfy_api.latest import io

from ..common.errors import quoted
from ..sampler.keyframes import MiddleKeyframe
from ..sampler.settings import Settings
from ..sequence.keyframe_chain import KeyframeChain

_LARGEST_SHOWN = 10**30
# What a wildcard link may bring instead is known by what we need of it; models and pictures are looked at more closely
# where they are used.
_CONNECTED = {
    "MODEL": (lambda value: _has(value, "model_options", "model", "load_device"), "a model"),
    "CLIP_VISION": (lambda value: _has(value, "encode_image", "model", "patcher"), "a CLIP vision model"),
    "VAE": (lambda value: _has(value, "encode", "decode", "latent_dim", "patcher"), "a VAE"),
    "IMAGE": (lambda value: _has_numbers(value) and value.ndim == 4 and len(value) > 0, "pictures"),
    "INBETWEEN_KEYFRAMES": (lambda value: isinstance(value, KeyframeChain), "keyframes, from Keyframe"),
    "LATENT": (lambda value: isinstance(value, dict) and _has_numbers(value.get("samples")), "latents"),
    "CONDITIONING": (
        lambda value: (
            isinstance(value, list)
            and all(
                isinstance(part, (list, tuple))
                and len(part) == 2
                and isinstance(part[0], torch.Tensor)
                and isinstance(part[1], dict)
                for part in value
            )
        ),
        "conditioning",
    ),
    "INBETWEEN_MIDDLE_KEYFRAMES": (
        lambda value: (
            isinstance(value, tuple) and len(value) > 0 and all(isinstance(each, MiddleKeyframe) for each in value)
        ),
        "middle keyframes",
    ),
    "INBETWEEN_SETTINGS": (lambda value: isinstance(value, Settings), "settings from Dual-Direction Settings"),
}


def checked_value(item: io.Input, value: Any) -> Any:
    """The value for an input: whole numbers as int, others as float, everything else as it is.

    List choices are checked where the list is known. Raises ValueError, naming the input, for a value of another kind,
    NaN, infinity, or a number outside the input's range.
    """
    if isinstance(item, (io.Int.Input, io.Float.Input)):
        return _number(item, value)
    if isinstance(item, io.Boolean.Input):
        return bool(_of_kind(item, value, isinstance(value, (bool, numpy.bool_)), "true or false"))
    if isinstance(item, io.String.Input):
        return _of_kind(item, value, isinstance(value, str), "text")
    if isinstance(item, io.Combo.Input):
        return _of_kind(item, value, isinstance(value, str), "a name from the list")
    # An input may take one of several kinds.
    kinds = [_CONNECTED.get(kind, (lambda value: True, "")) for kind in item.get_io_type().split(",")]
    if not any(fits(value) for fits, _ in kinds):
        what = ", or ".join(what for _, what in kinds)
        raise ValueError(f"{item.id}: expected {what}, found {found(value)}. Check the node that is connected here.")
    return value


def found(value: Any) -> str:
    """A value for a message: numbers and short text as they are written, anything else by its kind."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, numbers.Integral) and not -_LARGEST_SHOWN < int(value) < _LARGEST_SHOWN:
        return "a number of more than 30 digits"
    if isinstance(value, numbers.Real):
        return str(value)
    return quoted(value) if value is None or isinstance(value, str) else f"something of type {type(value).__name__}"


def _has(value: Any, *attributes: str) -> bool:
    return all(hasattr(value, attribute) for attribute in attributes)


def _has_numbers(value: Any) -> bool:
    """Whether it is an ordinary tensor: neither sparse, nor quantised, nor a mere shape."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not value.is_quantized
        and not value.is_meta
    )


def _of_kind(item: io.Input, value: Any, fits: bool, what: str) -> Any:
    if not fits:
        raise ValueError(f"{item.id}: expected {what}, found {found(value)}. Change it, or the node that gives it.")
    return value


def _number(item: io.Int.Input | io.Float.Input, value: Any) -> int | float:
    whole = isinstance(item, io.Int.Input)
    real = isinstance(value, numbers.Real) and not isinstance(value, bool) and value == value
    _of_kind(item, value, real, f"a {'whole ' if whole else ''}number from {item.min} to {item.max}")
    if value < item.min:
        raise ValueError(f"{item.id}: expected at least {item.min}, found {found(value)}. Raise it.")
    if not value <= item.max:
        raise ValueError(f"{item.id}: expected at most {item.max}, found {found(value)}. Lower it.")
    # Not of a whole number: math.floor takes NumPy's through float64, which the largest seeds do not survive.
    if whole and not isinstance(value, numbers.Integral):
        _of_kind(item, value, value == math.floor(value), f"a whole number from {item.min} to {item.max}")
    return int(value) if whole else float(value)  # pyright: ignore[reportArgumentType] - it is a number
