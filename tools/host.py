"""The ComfyUI that runs the pack: the one that dev.py gets, or one that is already on this machine."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from .paths import COMFYUI, environment_python
from .processes import DevError, runs, say
from .set_up import COMFYUI_VERSION, comfyui_version, set_up

NEEDED_FILES = ("main.py", "folder_paths.py", "nodes.py", "comfy", "comfyui_version.py")
HAS_PACKAGES = (
    "import sys, importlib.util as u; sys.exit(not all(u.find_spec(n) for n in ('torch', 'aiohttp', 'av', 'PIL')))"
)


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
    host = Host(COMFYUI, set_up())
    say(f"ComfyUI is ready in {host.folder}.")
    return host


def existing_host(comfyui: str, python: str | None) -> Host:
    """A ComfyUI of the user's, which is only read. Raises DevError if it is none or too old."""
    folder = Path(comfyui).expanduser().resolve()
    missing = [name for name in NEEDED_FILES if not (folder / name).exists()]
    if missing:
        raise DevError(f"--comfyui: {folder} is no ComfyUI folder (it has no {', '.join(missing)}).")
    version = comfyui_version(folder)
    if version and version < COMFYUI_VERSION:
        found, oldest = (".".join(map(str, numbers)) for numbers in (version, COMFYUI_VERSION))
        raise DevError(f"--comfyui: {folder} is ComfyUI {found}, but {oldest} or newer is needed; update it.")
    host = Host(folder, find_python(folder, python))
    say(f"Using ComfyUI in {host.folder} with {host.python}.")
    return host


def find_python(folder: Path, named: str | None) -> Path:
    """The Python of a ComfyUI's own environment. Raises DevError if none has ComfyUI's packages."""
    if named is not None:
        # No resolve(): a virtual environment's Python is a link, and is one only by its place.
        python = Path(os.path.abspath(Path(named).expanduser()))
        if not runs([python, "-c", HAS_PACKAGES]):
            raise DevError(f"--python: {python} does not run or lacks ComfyUI's packages (torch, aiohttp, av, PIL).")
        return python
    for python in candidate_pythons(folder):
        if python.exists() and runs([python, "-c", HAS_PACKAGES]):
            return python
    raise DevError(f"--comfyui: found no Python with ComfyUI's packages for {folder}; name it with --python PATH.")


def candidate_pythons(folder: Path) -> list[Path]:
    """Where ComfyUI's installers put its environment, then the active one."""
    near = [parent / name for parent in (folder, folder.parent) for name in (".venv", "venv", "env")]
    active = [Path(os.environ[name]) for name in ("VIRTUAL_ENV", "CONDA_PREFIX") if os.environ.get(name)]
    portable = [folder.parent / name / "python.exe" for name in ("python_embeded", "python_embedded")]
    conda = [path / "python.exe" for path in active] if os.name == "nt" else []
    return [*map(environment_python, near), *portable, *map(environment_python, active), *conda, Path(sys.executable)]


def import_host() -> None:
    """Make `comfy`, `nodes`, `folder_paths` … importable in this process, for tests and benchmarks.

    They are those of `INBETWEEN_COMFYUI`, or of the ComfyUI that dev.py got; on the CPU where torch sees no GPU. The
    host comes first on the path, since both it and this pack have a module called `nodes`.
    Raises FileNotFoundError when there is no ComfyUI.
    """
    import torch

    folder = Path(os.environ.get("INBETWEEN_COMFYUI", COMFYUI)).resolve()
    if not (folder / "comfy").is_dir():
        raise FileNotFoundError(
            f"No ComfyUI at {folder}. Run this through `python dev.py`, which gets one, or set INBETWEEN_COMFYUI to "
            "yours."
        )
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    arguments, sys.argv = sys.argv, sys.argv[:1]
    from comfy.cli_args import args

    sys.argv = arguments
    args.cpu = not torch.cuda.is_available()
