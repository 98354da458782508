"""What tells the host that a node's files have changed: it runs a node again when its fingerprint is another one."""

import os
from pathlib import Path

from . import host_paths
from .errors import WeightsError
from .folder_scan import PARTS

# {file that this process wrote: (its state then, how often it was found changed since)}
_written: dict[str, tuple[object, int]] = {}


def of_model(name: object) -> object:
    """State of the file, or of all files of the folder, that the host lists under that name; never raises."""
    return _of_name(host_paths.model_path, name)


def of_backward_motion(name: object) -> object:
    """State of the backward-motion file of that name; never raises."""
    return _of_name(host_paths.backward_motion_path, name)


def of_output(name: object) -> int:
    """A number that changes when the backward-motion file of that name, which this process wrote, is gone or replaced."""
    try:
        path = str(host_paths.new_backward_motion_path(name))
    except WeightsError:
        return 0
    state, changes = _written.get(path, (None, 0))
    if state is not None and state != _of_path(Path(path)):
        changes += 1
        _written[path] = None, changes
    return changes


def remember_output(path: Path) -> None:
    """To be called when this process has written the file."""
    _, changes = _written.get(str(path), (None, 0))
    _written[str(path)] = _of_path(Path(path)), changes


def _of_name(find, name: object) -> object:
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
