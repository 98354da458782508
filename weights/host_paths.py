"""Where the host keeps the files that this pack reads and writes; no name from a workflow leads outside."""

import os
import re
from pathlib import Path

import folder_paths

from .errors import WeightsError
from .first_contact import NO_BACKWARD_MOTION, NO_MODEL, NO_UNET, missing

BACKWARD_MOTION = "backward_motion"


def register_backward_motion_folder() -> None:
    """Tells the host of `models/backward_motion/`, beside any folder that the user configured for it."""
    folder_paths.add_model_folder_path(BACKWARD_MOTION, os.path.join(folder_paths.models_dir, BACKWARD_MOTION))
    paths, _ = folder_paths.folder_names_and_paths[BACKWARD_MOTION]
    # Pickles are listed too, so that a user who has one is told what to do with it.
    folder_paths.folder_names_and_paths[BACKWARD_MOTION] = (paths, set(folder_paths.supported_pt_extensions))


def backward_motion_files() -> list[str]:
    """Names of the files in `models/backward_motion/`; while there is none, one line that says what to do."""
    return folder_paths.get_filename_list(BACKWARD_MOTION) or [NO_BACKWARD_MOTION]


def backward_motion_path(name: str) -> Path:
    """The file of that name. Raises WeightsError when there is none."""
    return _existing(BACKWARD_MOTION, name)


def new_backward_motion_path(name: str) -> Path:
    """Where a new file of that name goes. Raises WeightsError for a name that leads elsewhere."""
    name = name.strip().removesuffix(".safetensors")
    if not re.fullmatch(r"\w[\w .()-]*", name):
        raise WeightsError(f"file_name: expected a plain name such as svd_backward_motion, found {name!r}. The file is "
                           "written to models/backward_motion.")
    return Path(folder_paths.get_folder_paths(BACKWARD_MOTION)[0], f"{name}.safetensors")


def svd_models() -> list[str]:
    """Names of checkpoints, and of diffusers folders with a `/` at their end; or one line that says what to do."""
    return folder_paths.get_filename_list("checkpoints") + _diffusers_folders("model_index.json") or [NO_MODEL]


def unets() -> list[str]:
    """Names of everything that may hold an SVD UNet: checkpoints, diffusion models, diffusers folders.

    While there is none, one line that says what to do.
    """
    files = folder_paths.get_filename_list("checkpoints") + folder_paths.get_filename_list("diffusion_models")
    return list(dict.fromkeys(files)) + _diffusers_folders("unet") or [NO_UNET]


def model_path(name: str) -> Path:
    """The checkpoint, diffusion model or (name ends with `/`) diffusers folder. Raises WeightsError when gone."""
    if name.endswith("/"):
        for root in folder_paths.get_folder_paths("diffusers"):
            path = Path(root, name)
            if path.is_dir() and Path(root).resolve() in path.resolve().parents:
                return path
        raise WeightsError(missing(name, "diffusers"))
    kinds = [kind for kind in ("checkpoints", "diffusion_models") if folder_paths.get_full_path(kind, name)]
    return _existing(kinds[0] if kinds else "checkpoints", name)


def _diffusers_folders(content: str) -> list[str]:
    found = []
    for root in folder_paths.get_folder_paths("diffusers"):
        if os.path.isdir(root):
            found += [path.parent.relative_to(root).as_posix() + "/" for path in Path(root).rglob(content)
                      if path.parent != Path(root)]
    return sorted(set(found))


def _existing(kind: str, name: str) -> Path:
    path = folder_paths.get_full_path(kind, name)
    if path is None:
        raise WeightsError(missing(name, kind))
    return Path(path)
