"""Loads and converts the user's own files by the names that the host lists."""

import comfy.utils
import torch

from . import host_models, host_paths
from .attach import attach
from .backward_motion import read_backward_motion
from .convert import convert
from .diffusers_folder import read_folder
from .errors import WeightsError
from .single_file import read_single_file

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def load_svd(name: str):
    """(MODEL, CLIP_VISION, VAE) of a checkpoint file or diffusers folder.

    Raises WeightsError, naming the input, when it is no complete SVD model.
    """
    try:
        path = host_paths.model_path(name)
        return host_models.build(read_folder(path) if path.is_dir() else read_single_file(path))
    except WeightsError as error:
        raise WeightsError(f"model_name: {error}") from error


def load_backward_motion(model, name: str, strength: float):
    """A clone of `model` with the backward-motion weights of a file beside it.

    Raises WeightsError, naming the input, when the file is none or belongs to another model.
    """
    try:
        differences, _ = read_backward_motion(host_paths.backward_motion_path(name))
        return attach(model, differences, strength, name)
    except WeightsError as error:
        message = str(error)
        raise WeightsError(message if message.startswith("model:") else f"backward_motion: {message}") from error


def convert_backward_motion(base: str, fine_tuned: str, file_name: str, precision: str, overwrite: bool) -> str:
    """Writes the differences of two of the host's models to `models/backward_motion/` and returns the file's name.

    Raises WeightsError when either is no SVD UNet or the file cannot be written.
    """
    if precision not in DTYPES:
        raise WeightsError(f"precision: expected one of {', '.join(DTYPES)}, found {precision!r}.")
    output = host_paths.new_backward_motion_path(file_name)
    bar = comfy.utils.ProgressBar(1)
    metadata = {"frames": "14", "temporal_attention": "rotated", "license": "as the fine-tuned model"}
    convert(host_paths.model_path(base), host_paths.model_path(fine_tuned), output, metadata, overwrite,
            DTYPES[precision], bar.update_absolute)
    return output.name
