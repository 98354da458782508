"""The ComfyUI that runs the pack: the one unpacked here, or one that is already on this machine."""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from .places import COMFYUI, LOCK, PIP_CACHE, TEMPORARY, environment_python
from .problems import DevError
from .setup_comfyui import prepare_comfyui
from .setup_environment import prepare_environment
from .setup_lock import setup_lock
from .subprocesses import runs, say

OLDEST_COMFYUI = (0, 3, 75)
VERSION = r"__version__\s*=\s*[\"'](\d+)\.(\d+)\.(\d+)"
PARTS = ("main.py", "folder_paths.py", "nodes.py", "comfy", "comfyui_version.py")
NEEDED = "import sys, importlib.util as u; sys.exit(not all(u.find_spec(n) for n in ('torch', 'aiohttp', 'av', 'PIL')))"


@dataclass(frozen=True)
class Host:
    """A ComfyUI folder and the Python that runs it."""

    folder: Path
    python: Path

    @property
    def is_ours(self) -> bool:
        return self.folder == COMFYUI


def prepare_host(comfyui: str | None, python: str | None) -> Host:
    """Set up `.venv` and `.comfyui`, or find what `--comfyui` and `--python` name. Raises DevError."""
    if comfyui is not None:
        return existing_host(comfyui, python)
    if python is not None:
        raise DevError("--python names the Python of a ComfyUI of yours; give --comfyui PATH with it.")
    with setup_lock(LOCK) as lock:
        environment = prepare_environment(lock)
        host = Host(prepare_comfyui(environment, lock), environment)
        for leftover in (PIP_CACHE, TEMPORARY):
            shutil.rmtree(leftover, ignore_errors=True)
    say(f"ComfyUI is ready in {host.folder}.")
    return host


def existing_host(comfyui: str, python: str | None) -> Host:
    """A ComfyUI of the user's, which is only read. Raises DevError if it is none or too old."""
    folder = Path(comfyui).expanduser().resolve()
    missing = [part for part in PARTS if not (folder / part).exists()]
    if missing:
        raise DevError(f"--comfyui: {folder} is no ComfyUI folder (it has no {', '.join(missing)}).")
    version = re.search(VERSION, (folder / "comfyui_version.py").read_text("utf-8"))
    if version and tuple(map(int, version.groups())) < OLDEST_COMFYUI:
        found, oldest = ".".join(version.groups()), ".".join(map(str, OLDEST_COMFYUI))
        raise DevError(f"--comfyui: {folder} is ComfyUI {found}, but {oldest} or newer is needed; update it.")
    host = Host(folder, find_python(folder, python))
    say(f"Using ComfyUI in {host.folder} with {host.python}.")
    return host


def find_python(folder: Path, named: str | None) -> Path:
    """The Python of a ComfyUI's own environment. Raises DevError if none has ComfyUI's packages."""
    if named is not None:
        # No resolve(): a virtual environment's Python is a link, and is one only by its place.
        python = Path(os.path.abspath(Path(named).expanduser()))
        if not runs([python, "-c", NEEDED]):
            raise DevError(f"--python: {python} does not run or lacks ComfyUI's packages (torch, aiohttp, av, PIL).")
        return python
    for python in candidate_pythons(folder):
        if python.exists() and runs([python, "-c", NEEDED]):
            return python
    raise DevError(f"--comfyui: found no Python with ComfyUI's packages for {folder}; name it with --python PATH.")


def candidate_pythons(folder: Path) -> list[Path]:
    """Where ComfyUI's installers put its environment, then the active one."""
    near = [parent / name for parent in (folder, folder.parent) for name in (".venv", "venv", "env")]
    active = [Path(os.environ[name]) for name in ("VIRTUAL_ENV", "CONDA_PREFIX") if os.environ.get(name)]
    portable = [folder.parent / name / "python.exe" for name in ("python_embeded", "python_embedded")]
    conda = [path / "python.exe" for path in active] if os.name == "nt" else []
    return [*map(environment_python, near), *portable, *map(environment_python, active), *conda, Path(sys.executable)]
