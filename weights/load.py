"""Loads and converts the user's own files by the names that the host lists."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_patcher
import comfy.utils

from ..common.errors import WeightsError, plain_name, quoted
from .attach import attach
from .backward_motion import read_backward_motion
from .convert import OTHER_BASE, PRECISIONS, convert
from .decoding import build_vae
from .folders import backward_motion_path, model_path, new_backward_motion_path, remember_output
from .host import build_image_encoder, build_unet, check_layout, layout_of, remember_factory
from .svd import read_folder, read_single_file

logger = logging.getLogger(__name__)


def load_svd(name: str):
    """(MODEL, CLIP_VISION, VAE) of a checkpoint file or diffusers folder.

    Raises WeightsError, naming the input, when it is no complete SVD model.
    """
    try:
        path = model_path(name)
        # One after the other: only one network's tensors are in memory beside the networks made before.
        return tuple(load_network(part, path) for part in ("unet", "image_encoder", "vae"))
    except WeightsError as error:
        raise WeightsError(f"model_name: {error}") from error


def load_backward_motion(model, name: str, strength: float, say: Callable[[str], None] = logger.warning):
    """A clone of `model` with the backward-motion weights of a file beside it.

    `say(sentence)` is called when they were made from another base than their own. Raises WeightsError, naming the
    input, when the file is none or belongs to another model.
    """
    try:
        path = backward_motion_path(name)
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
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise WeightsError(f"precision: expected one of {', '.join(PRECISIONS)}, found {quoted(precision)}.")
    output = new_backward_motion_path(file_name)
    paths = {label: _path_of(label, name) for label, name in (("base", base), ("fine_tuned", fine_tuned))}
    bar = comfy.utils.ProgressBar(1)
    metadata = {"frames": "14", "temporal_attention": "rotated", "license": "as the fine-tuned model"}
    convert(
        paths["base"],
        paths["fine_tuned"],
        output,
        metadata,
        overwrite,
        PRECISIONS[precision],
        bar.update_absolute,
        allow_other_base,
        say,
    )
    remember_output(output)
    return output.name


def _path_of(label: str, name: str) -> Path:
    try:
        return model_path(name)
    except WeightsError as error:
        raise WeightsError(f"{label}: {error}") from error


def load_network(part: str, path: Path):
    """The MODEL (part `unet`), CLIP_VISION (`image_encoder`) or VAE (`vae`) of a checkpoint or diffusers folder.

    Raises WeightsError when it is no complete SVD model.
    """
    network, layout = _build(part, path, None)
    remember_factory(getattr(network, "patcher", network), network_patcher, part, path, layout)
    return network


def network_patcher(
    part: str, path: str, loaded: str, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """The patcher of the network again; `loaded`: the layout of what was loaded.

    Raises WeightsError when another model has taken the file's place.
    """
    try:
        network, _ = _build(part, Path(path), loaded, disable_dynamic)
    except WeightsError as error:
        raise WeightsError(f"Load SVD Model, model_name: {error}") from error
    return getattr(network, "patcher", network)


def _build(part: str, path: Path, loaded: str | None, disable_dynamic: bool = False) -> tuple[Any, str]:
    """(the network, the layout of its tensors). Raises WeightsError when the layout is not the one `loaded` before."""
    parts = (read_folder if path.is_dir() else read_single_file)(path, (part,))
    tensors = getattr(parts, part)
    layout = layout_of(tensors, parts.config)
    check_layout(path, layout, loaded)
    if part == "vae":
        return build_vae(tensors, disable_dynamic), layout
    build = {"unet": build_unet, "image_encoder": build_image_encoder}[part]
    return build(tensors, parts.config, disable_dynamic), layout
