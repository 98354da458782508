"""Run other programs, and say in one sentence what went wrong."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from .paths import CHECKOUT, PIP_CACHE, SETUP_LOG, STATE, TEMPORARY

# An index's own words for progress; the rest of pip's output goes to the log only.
SHOWN = ("Downloading ", "Installing collected packages", "Get:", "Setting up chromium")
NO_NETWORK = re.compile(
    "NewConnectionError|ConnectTimeout|ReadTimeout|Max retries exceeded|Connection refused|Connection reset|"
    "Failed to establish a new connection|Name or service not known|ProxyError|Temporary failure in name resolution|"
    "getaddrinfo failed|nodename nor servname|SSLError|Network is unreachable|Could not find a version that satisfies"
)
DISK_FULL = re.compile(r"No space left on device|not enough space on the disk|Disk quota exceeded|\[Errno 28\]")
DISK_FULL_ERRNOS = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
DISK_FULL_SENTENCE = "the disk is full; free some space (a set-up takes about 10 GB) and run the same command again"
# Python's venv module does not say why it failed; with less than this the disk is the reason.
LITTLE = 10 << 20


class DevError(Exception):
    """What went wrong, in one sentence that the user sees without a traceback."""


def say(text: str) -> None:
    print(text, flush=True)


def clean_environment(**additions: object) -> dict[str, str]:
    """This process's environment without what would leak another Python into a child, and with caches kept here."""
    unwanted = ("PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "__PYVENV_LAUNCHER__", "PIP_TARGET", "PIP_PREFIX")
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    environment["XDG_CACHE_HOME"] = str(STATE / "cache")
    return environment | {name: str(value) for name, value in additions.items()}


def runs(command: Sequence[object]) -> bool:
    """Whether a command can be started and succeeds."""
    try:
        output_of(command)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def output_of(command: Sequence[object]) -> str:
    """What a quick command prints. Raises subprocess.CalledProcessError or OSError if it fails."""
    return subprocess.run(
        [str(part) for part in command],
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
        encoding="utf-8",
        errors="replace",
    ).stdout


def pip(what: str, python: Path, command: str, *arguments: object, log: Path = SETUP_LOG) -> None:
    """`pip install` or `pip download`, as an environment's own. Raises DevError if it fails."""
    options = ("--no-input", "--progress-bar", "off")
    run_logged(what, [python, "-m", "pip", command, *options, *arguments], log)


def run_logged(what: str, command: Sequence[object], log: Path = SETUP_LOG) -> None:
    """Run a set-up command, its output to a log, its progress to the terminal. Raises DevError if it fails."""
    TEMPORARY.mkdir(parents=True, exist_ok=True)
    environment = clean_environment(
        PIP_CACHE_DIR=PIP_CACHE,
        PIP_USER="0",
        PIP_REQUIRE_VIRTUALENV="0",
        PIP_DISABLE_PIP_VERSION_CHECK="1",
        PYTHONIOENCODING="utf-8",
        # On the checkout's own disk.
        **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), TEMPORARY),
    )
    tail: deque[str] = deque(maxlen=400)
    with (
        open(log, "a", encoding="utf-8") as stream,
        subprocess.Popen(
            [str(part) for part in command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            # The set-up's lock, so that it lasts as long as this child does when dev.py itself is killed.
            close_fds=False,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                tail.append(line)
                stream.write(line)
                if line.strip().startswith(SHOWN):
                    say("  " + line.strip()[:110])
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise explain_failure(what, "".join(tail), log)


def explain_failure(what: str, output: str, log: Path) -> DevError:
    """Why a set-up command failed, judged by its output (pip, venv)."""
    if DISK_FULL.search(output) or shutil.disk_usage(CHECKOUT).free < LITTLE:
        return DevError(f"{what} failed: {DISK_FULL_SENTENCE}.")
    if "ensurepip" in output and "apt" in output:
        return DevError(f"{what} failed: this Python has no venv module; install it (apt install python3-venv).")
    if "DO NOT MATCH THE HASHES" in output:
        return DevError(f"{what} failed: the package index has another file of that name; details are in {log}.")
    if NO_NETWORK.search(output):
        return DevError(
            f"{what} failed: the Python package index could not be reached or lacks a package; check the network "
            f"(and pip's index settings) and run the same command again; details are in {log}."
        )
    return DevError(f"{what} failed; the end of {log} says why.")


def explain_os_error(error: OSError) -> str:
    """One sentence for an operating system error that nothing nearer to it explained."""
    if error.errno in DISK_FULL_ERRNOS:
        return f"{DISK_FULL_SENTENCE}."
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}."
