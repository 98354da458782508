"""Start ComfyUI's server, wait until it answers, stop it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .base_folder import prepare_base
from .host import Host
from .places import BASE, MODEL_PATHS
from .problems import DevError
from .subprocesses import clean_environment, output_of, say

ADDRESS = "127.0.0.1"
START_SECONDS = 300
# A node of the pack: the server knows it once the pack is loaded.
PROBE_NODE = "InbetweenLoadSVD"
ACCELERATOR = (
    "import torch; print(torch.cuda.is_available() or torch.backends.mps.is_available()"
    " or (hasattr(torch, 'xpu') and torch.xpu.is_available()))"
)
# The system's proxy settings must not be asked for this machine's own server.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return probe.getsockname()[1]


def check_port(port: int) -> None:
    """Raises DevError if the port cannot be listened on."""
    with socket.socket() as probe:
        if os.name != "nt":
            # Without it a port counts as used for a minute after its server ended.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError as error:
            raise DevError(
                f"--port: {port} cannot be used ({error.strerror}); stop what uses it or give another number."
            ) from error


def has_accelerator(host: Host) -> bool:
    """Whether the host's torch finds a GPU."""
    try:
        return output_of([host.python, "-c", ACCELERATOR]).strip().endswith("True")
    except (OSError, subprocess.CalledProcessError):
        return False


def server_command(host: Host, port: int, *options: object) -> list[str]:
    command = [
        host.python,
        host.folder / "main.py",
        "--listen",
        ADDRESS,
        "--port",
        port,
        "--disable-auto-launch",
        "--base-directory",
        BASE,
        "--extra-model-paths-config",
        MODEL_PATHS,
        "--database-url",
        "sqlite:///:memory:",
        *([] if has_accelerator(host) else ["--cpu"]),
        *options,
    ]
    return [str(part) for part in command]


@contextmanager
def running_server(host: Host, port: int, log: Path, *options: object) -> Iterator[subprocess.Popen]:
    """A server with the pack loaded, answering at the port; stopped when the block ends. Raises DevError."""
    prepare_base(host)
    say(f"Starting ComfyUI; its output goes to {log}.")
    environment = clean_environment(PYTHONUNBUFFERED="1", PYTHONIOENCODING="utf-8")
    # Bytecode halves our ComfyUI's next start; a ComfyUI of the user's gets none written.
    environment["PYTHONDONTWRITEBYTECODE"] = "" if host.is_ours else "1"
    # Its own process group: Ctrl-C reaches dev.py only, which then stops the server in order.
    group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if os.name == "nt" else {"start_new_session": True}
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            server_command(host, port, *options),
            cwd=BASE,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            **group,
        )
    try:
        wait_until_ready(process, port, log)
        yield process
    finally:
        stop(process)


def wait_until_ready(process: subprocess.Popen, port: int, log: Path) -> None:
    """Raises DevError if the server ends, does not answer in time or has not loaded the pack."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            words = log.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((line for line in reversed(words) if line.strip()), "no output").strip()
            raise DevError(f"ComfyUI ended while starting: {last} (all its output is in {log}).")
        try:
            with OPENER.open(f"http://{ADDRESS}:{port}/object_info/{PROBE_NODE}", timeout=10) as answer:
                loaded = PROBE_NODE in json.load(answer)
        except (OSError, urllib.error.URLError, ValueError):
            time.sleep(0.3)
            continue
        if loaded:
            return
        raise DevError(f"ComfyUI could not load the pack; {log} says why.")
    raise DevError(f"ComfyUI did not answer within {START_SECONDS} seconds; its output is in {log}.")


def stop(process: subprocess.Popen) -> None:
    """End the server, by force if it does not end itself."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        if os.name == "nt":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
