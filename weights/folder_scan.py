"""Which SVD models there are in the folders that hold diffusers models: found once, looked for again when a folder
changes.
"""

import os
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from .errors import WeightsError
from .tables import read_table

PARTS = ("unet", "vae", "image_encoder")
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
