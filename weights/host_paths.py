"""Where the host keeps the files that this pack reads and writes; no name from a workflow leads outside."""

import os
import re
from pathlib import Path, PurePath

import folder_paths

from .errors import WeightsError, quoted
from .first_contact import NO_BACKWARD_MOTION, NO_MODEL, NO_UNET, missing
from .folder_scan import ModelFolders, model_folders

BACKWARD_MOTION = "backward_motion"
# Most disks take 255 bytes; the rest is for `.safetensors` and what a copy may add.
_LONGEST_NAME = 200
# Windows opens a device where a file of such a name is asked for, whatever stands behind a dot.
_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE)


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
    """Where a new file of that name goes. Raises WeightsError for a name that leads elsewhere or is no file's."""
    plain = name.strip().removesuffix(".safetensors") if isinstance(name, str) else ""
    if not re.fullmatch(r"\w[\w .()-]*", plain) or _DEVICES.fullmatch(plain) or len(plain.encode()) > _LONGEST_NAME:
        raise WeightsError(
            "file_name: expected a plain name such as svd_backward_motion, at most "
            f"{_LONGEST_NAME} bytes long and no device of Windows, found {quoted(name)}. The "
            "file is written to models/backward_motion."
        )
    return Path(folder_paths.get_folder_paths(BACKWARD_MOTION)[0], f"{plain}.safetensors")


def svd_models() -> list[str]:
    """Names of checkpoints, and of diffusers folders with a `/` at their end; or one line that says what to do."""
    return folder_paths.get_filename_list("checkpoints") + sorted(_diffusers().pipelines) or [NO_MODEL]


def unets() -> list[str]:
    """Names of everything that may hold an SVD UNet: checkpoints, diffusion models, diffusers folders.

    While there is none, one line that says what to do.
    """
    files = folder_paths.get_filename_list("checkpoints") + folder_paths.get_filename_list("diffusion_models")
    return list(dict.fromkeys(files)) + sorted(_diffusers().unets) or [NO_UNET]


def model_path(name: str) -> Path:
    """The checkpoint, diffusion model or (name ends with `/`) diffusers folder. Raises WeightsError when gone.

    A link in the host's folders is its user's own word, wherever it leads; a name from a workflow leads nowhere else.
    """
    if isinstance(name, str) and name.endswith("/"):
        for root in folder_paths.get_folder_paths("diffusers") if _stays_inside(name) else ():
            if os.path.isdir(path := os.path.join(root, name)):
                return Path(path)
        raise WeightsError(missing(name, "diffusers"))
    kinds = [kind for kind in ("checkpoints", "diffusion_models") if _full_path(kind, name)]
    return _existing(kinds[0] if kinds else "checkpoints", name)


def _diffusers() -> ModelFolders:
    # The host asks for all nodes' lists at once, and keeps its own lists meanwhile in the same way.
    known = folder_paths.cache_helper.get(__name__)
    if known is None:
        known = model_folders(folder_paths.get_folder_paths("diffusers"))
        folder_paths.cache_helper.set(__name__, known)
    return known


def _stays_inside(name: str) -> bool:
    path = PurePath(name)
    return not (path.drive or path.root or ".." in path.parts)


def _full_path(kind: str, name: str) -> str | None:
    if isinstance(name, str) and name and "\0" not in name and _stays_inside(name):
        return folder_paths.get_full_path(kind, name)
    return None


def _existing(kind: str, name: str) -> Path:
    path = _full_path(kind, name)
    if path is None:
        raise WeightsError(missing(name, kind))
    return Path(path)
