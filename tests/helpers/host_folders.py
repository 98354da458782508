"""A host whose model folders are new and empty, for tests that put files into them."""

import copy
from pathlib import Path

import folder_paths
from generative_inbetweening.weights.folders import register_backward_motion_folder

KINDS = ("checkpoints", "diffusers", "diffusion_models", "backward_motion")


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
