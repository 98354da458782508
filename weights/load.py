"""Loads and converts the user's own files by the names that the host lists."""

import logging
from collections.abc import Callable
from pathlib import Path

import comfy.model_patcher
import comfy.utils
import torch

from ..common.errors import WeightsError, plain_name, quoted
from . import folders as file_state
from . import folders as host_paths
from .attach import attach
from .backward_motion import read_backward_motion
from .convert import OTHER_BASE, convert
from .rebuild import load_network

logger = logging.getLogger(__name__)

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def load_svd(name: str):
    """(MODEL, CLIP_VISION, VAE) of a checkpoint file or diffusers folder.

    Raises WeightsError, naming the input, when it is no complete SVD model.
    """
    try:
        path = host_paths.model_path(name)
        # One after the other, so that only one network's tensors are in memory beside what was made of them.
        return tuple(load_network(part, path) for part in ("unet", "image_encoder", "vae"))
    except WeightsError as error:
        raise WeightsError(f"model_name: {error}") from error


def load_backward_motion(model, name: str, strength: float, say: Callable[[str], None] = logger.warning):
    """A clone of `model` with the backward-motion weights of a file beside it.

    `say(sentence)` is called when they were made from another base than their own. Raises WeightsError, naming the
    input, when the file is none or belongs to another model.
    """
    try:
        path = host_paths.backward_motion_path(name)
        differences, metadata = read_backward_motion(path)
        if OTHER_BASE in metadata:
            base = plain_name(metadata.get("base", "another base"))
            say(
                f"backward_motion: {plain_name(name)} was made from {base}, which the fine-tuned model was not trained "
                "from: the motion near the last keyframe may be wrong."
            )
        return attach(model, differences, strength, plain_name(name), path)
    except WeightsError as error:
        message = str(error)
        raise WeightsError(message if message.startswith("model:") else f"backward_motion: {message}") from error


def convert_backward_motion(
    base: str,
    fine_tuned: str,
    file_name: str,
    precision: str,
    overwrite: bool,
    allow_other_base: bool = False,
    say: Callable[[str], None] = logger.warning,
) -> str:
    """Writes the differences of two of the host's models to `models/backward_motion/` and returns the file's name.

    `say(sentence)` is called for another base that was allowed. Raises WeightsError, naming the input, when either is
    no SVD UNet, when the base is another than the one that was fine-tuned (unless `allow_other_base`), or when the
    file cannot be written.
    """
    if not isinstance(precision, str) or precision not in DTYPES:
        raise WeightsError(f"precision: expected one of {', '.join(DTYPES)}, found {quoted(precision)}.")
    output = host_paths.new_backward_motion_path(file_name)
    paths = {label: _path_of(label, name) for label, name in (("base", base), ("fine_tuned", fine_tuned))}
    bar = comfy.utils.ProgressBar(1)
    metadata = {"frames": "14", "temporal_attention": "rotated", "license": "as the fine-tuned model"}
    convert(
        paths["base"],
        paths["fine_tuned"],
        output,
        metadata,
        overwrite,
        DTYPES[precision],
        bar.update_absolute,
        allow_other_base,
        say,
    )
    file_state.remember_output(output)
    return output.name


def _path_of(label: str, name: str) -> Path:
    try:
        return host_paths.model_path(name)
    except WeightsError as error:
        raise WeightsError(f"{label}: {error}") from error
