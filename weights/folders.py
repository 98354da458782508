"""The user's model files and diffusers folders, found by the names that the host lists.

- No name from a workflow leads out of the host's folders; a link in them is its user's own word and is followed.
- diffusers folders are searched once, and again when one of them changes.
- A file's state is part of its node's fingerprint: the host runs a node again when its fingerprint is another one.
"""

import os
import re
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import folder_paths

from ..common.errors import WeightsError, quoted
from .files import read_table
from .identify import PARTS
from .missing_files import NO_BACKWARD_MOTION, NO_MODEL, NO_UNET, missing

BACKWARD_MOTION = "backward_motion"
# Most disks take 255 bytes; the rest is left for `.safetensors` and what a copy may add.
_LONGEST_NAME = 200
# Windows opens a device where such a name is asked for, whatever follows a dot.
_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE)
_UNET_CLASS = "UNetSpatioTemporalConditionModel"
_WEIGHTS = "diffusion_pytorch_model"
# What lies beside a pipeline's model_index.json, and never holds another model.
_NOT_SEARCHED = {*PARTS, "scheduler", "feature_extractor", "text_encoder", "tokenizer", "safety_checker", ".git"}


@dataclass
class ModelFolders:
    """Folders below the roots, as names with `/` between and behind; `looked_at`: {folder: its time of change}."""

    pipelines: set[str] = field(default_factory=set)
    unets: set[str] = field(default_factory=set)
    looked_at: dict[str, int | None] = field(default_factory=dict)


_known: dict[tuple[str, ...], ModelFolders] = {}
# {file that this process wrote: (its state then, how often it was found changed since)}
_written: dict[str, tuple[object, int]] = {}


def register_backward_motion_folder() -> None:
    """Adds `models/backward_motion/` to the host's folders, beside any that the user configured for it."""
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


def new_backward_motion_path(name: object) -> Path:
    """Where a new file of that name goes. Raises WeightsError for a name that leads elsewhere or is no file's."""
    plain = name.strip().removesuffix(".safetensors") if isinstance(name, str) else ""
    if not re.fullmatch(r"\w[\w .()-]*", plain) or _DEVICES.fullmatch(plain) or len(plain.encode()) > _LONGEST_NAME:
        raise WeightsError(
            f"file_name: expected a plain name such as svd_backward_motion, at most {_LONGEST_NAME} bytes long and no "
            f"device of Windows, found {quoted(name)}. The file is written to models/backward_motion."
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
    # The host asks for all nodes' lists at once, and keeps its own lists in this cache meanwhile.
    cache: Any = folder_paths.cache_helper
    known = cache.get(__name__)
    if known is None:
        known = model_folders(folder_paths.get_folder_paths("diffusers"))
        cache.set(__name__, known)
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


def model_folders(roots: Iterable[str]) -> ModelFolders:
    """The SVD pipelines and the folders with an SVD UNet below `roots`; links and junctions are followed.

    As the host does for its own lists, a folder's time of change says whether its contents are still those seen before.
    """
    roots = tuple(roots)
    found = _known.get(roots)
    if found is None or any(_changed_at(folder) != time for folder, time in found.looked_at.items()):
        found = _known[roots] = ModelFolders()
        for root in roots:
            _search(root, found)
    return found


def _search(root: str, found: ModelFolders) -> None:
    waiting, searched = deque([(root, "")]), set()
    while waiting:
        folder, name = waiting.popleft()
        files, folders = _contents(folder, found)
        if name:
            unet, unet_files = folder, files
            if "unet" in folders:
                unet = os.path.join(folder, "unet")
                unet_files, _ = _contents(unet, found)
            holds_unet = any(file.startswith(_WEIGHTS) for file in unet_files)
            pipeline = "model_index.json" in files or all(part in folders for part in PARTS)
            if (holds_unet or pipeline) and not _is_of_another_class(unet):
                found.unets |= {name} if holds_unet else set()
                found.pipelines |= {name} if pipeline else set()
        # A link may lead back to where it lies, or many of them to each other: each place is searched once.
        place = os.path.realpath(folder)
        if place not in searched:
            searched.add(place)
            skipped = _NOT_SEARCHED if name else {".git"}
            waiting.extend(
                (os.path.join(folder, child), f"{name}{child}/") for child in folders if child not in skipped
            )


def _contents(folder: str, found: ModelFolders) -> tuple[list[str], list[str]]:
    """Names of the files and of the folders in it, links to them included; places come before links to them."""
    found.looked_at[folder] = _changed_at(folder)
    try:
        with os.scandir(folder) as entries:
            names = [name for _, name in sorted((entry.is_symlink(), entry.name) for entry in entries)]
    except OSError:
        return [], []
    folders = {name for name in names if os.path.isdir(os.path.join(folder, name))}
    return [name for name in names if name not in folders], [name for name in names if name in folders]


def _is_of_another_class(folder: str) -> bool:
    """Whether its config says so: an SD 1.5, a VAE. Without a config it is offered, and reading it tells."""
    try:
        return read_table(os.path.join(folder, "config.json")).get("_class_name", _UNET_CLASS) != _UNET_CLASS
    except WeightsError:
        return False


def _changed_at(folder: str) -> int | None:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return None


def model_state(name: object) -> object:
    """State of the file, or of all files of the folder, that the host lists under that name; never raises."""
    return _of_name(model_path, name)


def backward_motion_state(name: object) -> object:
    """State of the backward-motion file of that name; never raises."""
    return _of_name(backward_motion_path, name)


def output_state(name: object) -> int:
    """A number that changes when a backward-motion file that this process wrote is gone or replaced."""
    try:
        path = str(new_backward_motion_path(name))
    except WeightsError:
        return 0
    state, changes = _written.get(path, (None, 0))
    if state is not None and state != _of_path(Path(path)):
        changes += 1
        _written[path] = None, changes
    return changes


def remember_output(path: Path) -> None:
    """Notes the file's state; to be called when this process has written it."""
    _, changes = _written.get(str(path), (None, 0))
    _written[str(path)] = _of_path(Path(path)), changes


def _of_name(find: Callable[[Any], Path], name: object) -> object:
    try:
        return _of_path(find(name))
    except WeightsError:
        return None


def _of_path(path: Path) -> object:
    """Place, size and times of a file, or of what a folder and its parts hold."""
    try:
        if not path.is_dir():
            return _of_file(path)
        folders = [path, *(path / part for part in PARTS if (path / part).is_dir())]
        return [
            _of_file(file)
            for folder in folders
            for file in sorted(folder.iterdir())
            if file.suffix in (".safetensors", ".json") and file.is_file()
        ]
    except OSError:
        return None


def _of_file(path: Path) -> list:
    stat = path.stat()
    # Copying tools can give a new file an old one's time of change, but not its other time.
    return [os.path.realpath(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
