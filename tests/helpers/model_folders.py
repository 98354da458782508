"""For tests in the host: the folders in which it looks for models, those of tests/reference or new and empty ones."""

import copy
import os
from pathlib import Path

import folder_paths
from generative_inbetweening.weights.files import read_tensors, save_tensors
from generative_inbetweening.weights.folders import register_backward_motion_folder

OWN_REFERENCE = Path(__file__).resolve().parents[1] / "reference"
REFERENCE = Path(os.environ.get("INBETWEEN_REFERENCE", OWN_REFERENCE)).resolve()
FINE_TUNED = Path(__file__).resolve().parents[1] / "data" / "reverse_motion.safetensors"
KINDS = ("checkpoints", "diffusers", "diffusion_models", "backward_motion")


def complete_reference() -> None:
    """Writes the fine-tuned UNet, of which the repository holds the tensors that are not those of its base."""
    base, tuned = (
        OWN_REFERENCE / name / "unet" / "diffusion_pytorch_model.safetensors"
        for name in ("tiny-svd", "tiny-svd-reverse-motion")
    )
    if not tuned.exists():
        save_tensors(tuned, {**read_tensors(base), **read_tensors(FINE_TUNED)}, {"format": "pt"}, overwrite=True)


def use_empty_folders(base: Path, monkeypatch) -> Path:
    """Lets the host look for models below `base` only; `diffusion_models` is also `unet`, as the host has it."""
    register_backward_motion_folder()
    folders = copy.copy(folder_paths.folder_names_and_paths)
    folders.update({kind: ([str(base / kind)], folders[kind][1]) for kind in KINDS})
    folders["diffusion_models"][0].insert(0, str(base / "unet"))
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", folders)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    for kind in (*KINDS, "unet"):
        (base / kind).mkdir()
    return base


def choices(node, name: str) -> list[str]:
    """What a node's list offers now."""
    return next(item.options for item in node.define_schema().inputs if item.id == name)


def use_folders(models: Path, diffusers: Path = REFERENCE) -> None:
    """Lets the host find the diffusers folders, and write backward-motion files to `models`."""
    folder_paths.models_dir = str(models)
    folder_paths.folder_names_and_paths["backward_motion"] = ([str(models / "backward_motion")], {".safetensors"})
    register_backward_motion_folder()
    folder_paths.add_model_folder_path("diffusers", str(diffusers), is_default=True)
    folder_paths.filename_list_cache.clear()


def backward_motion_folder() -> Path:
    return Path(folder_paths.get_folder_paths("backward_motion")[0])


def folder(end: str) -> str:
    """The reference's diffusers folder whose name ends so, as the loaders list it."""
    return next(name for name in _folders() if name.endswith(end)) + "/"


def base_folder() -> str:
    """The one of the 14-frame base, as the loaders list it."""
    return next(name for name in _folders() if not name.endswith(("-xt", "reverse-motion"))) + "/"


def _folders() -> list[str]:
    return sorted(path.parent.name for path in REFERENCE.glob("*/unet"))
