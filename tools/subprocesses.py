"""Run other programs: their environment, their output, their end."""

from __future__ import annotations

import os
import subprocess
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from .places import PIP_CACHE, STATE, TEMPORARY
from .problems import explain_failure

# An index's own words for progress; the rest of pip's output goes to the log only.
SHOWN = ("Downloading ", "Installing collected packages", "Get:", "Setting up chromium")


def say(text: str) -> None:
    print(text, flush=True)


def clean_environment(**additions: object) -> dict[str, str]:
    """This process's environment without what would leak another Python into a child, and with caches kept here."""
    unwanted = ("PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "__PYVENV_LAUNCHER__", "PIP_TARGET", "PIP_PREFIX")
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    environment["XDG_CACHE_HOME"] = str(STATE / "cache")
    environment.update({name: str(value) for name, value in additions.items()})
    return environment


def pip_environment() -> dict[str, str]:
    """pip's cache and temporary files on the checkout's own disk."""
    TEMPORARY.mkdir(parents=True, exist_ok=True)
    folders = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), TEMPORARY)
    return clean_environment(
        PIP_CACHE_DIR=PIP_CACHE,
        PIP_USER="0",
        PIP_REQUIRE_VIRTUALENV="0",
        PIP_DISABLE_PIP_VERSION_CHECK="1",
        PYTHONIOENCODING="utf-8",
        **folders,
    )


def run_logged(
    what: str, command: Sequence[object], log: Path, environment: dict[str, str], keep: Sequence[int] = ()
) -> None:
    """Run a set-up command, its output to a log, its progress to the terminal.

    The descriptors in `keep` stay open in the child, so that a lock outlives this process when it is killed.
    Raises DevError if the command fails.
    """
    tail: deque[str] = deque(maxlen=400)
    extra = {"pass_fds": tuple(keep)} if os.name != "nt" else {}
    with (
        open(log, "a", encoding="utf-8") as stream,
        subprocess.Popen(
            [str(part) for part in command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
            **extra,
        ) as process,
    ):
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


def runs(command: Sequence[object]) -> bool:
    """Whether a command can be started and succeeds."""
    try:
        return (
            subprocess.run(
                [str(part) for part in command],
                env=clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
            ).returncode
            == 0
        )
    except OSError:
        return False


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
    ).stdout
