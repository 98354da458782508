"""Turn what can go wrong on a user's machine into one sentence that says what to do."""

from __future__ import annotations

import errno
import shutil

from .places import CHECKOUT

NO_NETWORK = (
    "NewConnectionError",
    "ConnectTimeout",
    "ReadTimeout",
    "Max retries exceeded",
    "Connection refused",
    "Connection reset",
    "Failed to establish a new connection",
    "Name or service not known",
    "ProxyError",
    "Temporary failure in name resolution",
    "getaddrinfo failed",
    "nodename nor servname",
    "SSLError",
    "Network is unreachable",
    "Could not find a version that satisfies",
)
# Python's venv module does not say why it failed; with less than this the disk is the reason.
LITTLE = 10 << 20
DISK_FULL = ("No space left on device", "not enough space on the disk", "Disk quota exceeded", "[Errno 28]")
DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT) if hasattr(errno, "EDQUOT") else (errno.ENOSPC,)
DISK_FULL_SENTENCE = "the disk is full; free some space (a set-up takes about 10 GB) and run the same command again"


class DevError(Exception):
    """A problem stated in one sentence, shown to the user without a traceback."""


def explain_failure(what: str, output: str, log: object) -> DevError:
    """Say why a set-up command failed, judged by its output (pip, venv)."""
    if any(sign in output for sign in DISK_FULL) or shutil.disk_usage(CHECKOUT).free < LITTLE:
        return DevError(f"{what} failed: {DISK_FULL_SENTENCE}.")
    if "ensurepip" in output and "apt" in output:
        return DevError(f"{what} failed: this Python has no venv module; install it (apt install python3-venv).")
    if any(sign in output for sign in NO_NETWORK):
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
