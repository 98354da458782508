"""Make `.venv` with what ComfyUI, the tests and the training need; adopt or repair one that is there."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

from .places import DEV_REQUIREMENTS, ENVIRONMENT, HOST_REQUIREMENTS, SETUP_LOG, STAMP, environment_python
from .problems import DevError
from .subprocesses import output_of, pip_environment, run_logged, runs, say

CHECK = Path(__file__).with_name("check_packages.py")
REQUIREMENTS = (HOST_REQUIREMENTS, DEV_REQUIREMENTS)


def prepare_environment(lock: int) -> Path:
    """The Python of a complete `.venv`; without network or pip when it is complete already. Raises DevError."""
    python = environment_python(ENVIRONMENT)
    wanted = fingerprint(python)
    stamp = read_stamp()
    if wanted and stamp.get("fingerprint") == wanted:
        packages = check_packages(python)
        if not packages["damaged"] and set(stamp["installed"]) <= set(packages["installed"]):
            return python
    for old in (STAMP, SETUP_LOG):
        old.unlink(missing_ok=True)
    make_environment(python, lock)
    install_packages(python, lock)
    write_stamp({"fingerprint": fingerprint(python), "installed": check_packages(python)["installed"]})
    return python


def fingerprint(python: Path) -> str | None:
    """Of the requirement files and the environment's Python version; None if that Python does not run."""
    try:
        version = output_of([python, "-c", "import sys; print(sys.version)"])
    except (OSError, subprocess.CalledProcessError):
        return None
    digest = hashlib.sha256(version.encode())
    for path in REQUIREMENTS:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def read_stamp() -> dict:
    """What the last complete set-up left; empty if there was none or its file is damaged."""
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) and isinstance(stamp.get("installed"), list) else {}


def write_stamp(stamp: dict) -> None:
    partial = STAMP.with_suffix(".partial")
    partial.write_text(json.dumps(stamp), encoding="utf-8")
    os.replace(partial, STAMP)


def check_packages(python: Path, *options: str) -> dict[str, list[str]]:
    """Names of the installed packages, and `name==version` of the damaged ones."""
    return json.loads(output_of([python, CHECK, *options]))


def usable(python: Path) -> bool:
    """Whether the environment's Python runs, is new enough and has a pip that runs."""
    new_enough = "import sys; sys.exit(sys.version_info < (3, 10))"
    return runs([python, "-c", new_enough]) and runs([python, "-m", "pip", "--version"])


def make_environment(python: Path, lock: int) -> None:
    """Make or repair `.venv`; the packages of one whose Python runs are kept if possible."""
    if usable(python):
        return
    say(f"Making {ENVIRONMENT} with Python {sys.version.split()[0]}.")
    make = [sys.executable, "-m", "venv", ENVIRONMENT]
    if runs([python, "-c", "pass"]):
        try:
            run_logged("Completing .venv", make, SETUP_LOG, pip_environment(), [lock])
        except DevError:
            say("The unfinished .venv cannot be completed; making it anew.")
    if not usable(python):
        run_logged("Making .venv", [*make, "--clear"], SETUP_LOG, pip_environment(), [lock])
    if not usable(python):
        raise DevError(f"{python} does not run or is older than Python 3.10; delete {ENVIRONMENT} and run this again.")


def install_packages(python: Path, lock: int) -> None:
    """Install the pinned packages; what is there and whole is left as it is."""
    say("Installing the pinned packages into .venv (the first time several GB, some minutes).")
    pip = [python, "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
    damaged = check_packages(python, "--sizes")["damaged"]
    if damaged:
        say(f"Repairing {', '.join(damaged)}.")
        repair = [*pip, "--ignore-installed", "--no-deps", *damaged]
        run_logged("Repairing packages", repair, SETUP_LOG, pip_environment(), [lock])
    files = [part for path in REQUIREMENTS for part in ("-r", path)]
    run_logged("Installing packages", [*pip, *files], SETUP_LOG, pip_environment(), [lock])
