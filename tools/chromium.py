"""Find a Chromium for the browser tests."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from .processes import DevError, run_logged, say

COMMANDS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
PATHS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)


def prepare_chromium() -> str | None:
    """The path of a Chromium, installed first where that is possible; None if there is none."""
    found = find_chromium()
    if found is None and may_install():
        install_chromium()
        found = find_chromium()
    if found is None:
        say(
            "No Chromium found: the browser tests skip themselves. Install one, or name it in INBETWEEN_CHROMIUM; "
            "with CI=true, and as root, Debian's is installed here."
        )
    return found


def find_chromium() -> str | None:
    named = os.environ.get("INBETWEEN_CHROMIUM")
    if named:
        if not Path(named).is_file():
            raise DevError(f"INBETWEEN_CHROMIUM: there is no {named}.")
        return named
    commands = (shutil.which(name) for name in COMMANDS)
    return next((path for path in commands if path), None) or next(filter(os.path.isfile, PATHS), None)


def may_install() -> bool:
    """Whether this is a Debian machine for CI runs: on a machine of somebody's nothing is installed unasked."""
    return (
        os.environ.get("CI", "").lower() in ("true", "1")
        and sys.platform.startswith("linux")
        and os.geteuid() == 0
        and shutil.which("apt-get") is not None
    )


def install_chromium() -> None:
    """Install Debian's Chromium; a failure leaves the browser tests without one."""
    say("Installing Debian's chromium for the browser tests.")
    try:
        run_logged("apt-get update", ["apt-get", "update"])
        install = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "--no-install-recommends"]
        run_logged("Installing chromium", [*install, "chromium"])
    except DevError as error:
        say(str(error))
