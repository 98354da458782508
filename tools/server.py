"""ComfyUI's server with the pack: its folder, its start and its end, and its window in a browser."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..common.atomic_write import atomic_write
from .host import Host
from .paths import BASE, CHECKOUT, DEMO, MODEL_PATHS, PACK_NAME, SERVE_TEMPLATE, STATE
from .processes import DevError, clean_environment, runs, say

ADDRESS = "127.0.0.1"
START_SECONDS = 300
# A node of the pack: the server knows it once the pack is loaded.
PROBE_NODE = "InbetweenLoadSVD"
HAS_ACCELERATOR = (
    "import sys, torch; sys.exit(not (torch.cuda.is_available() or torch.backends.mps.is_available()"
    " or (hasattr(torch, 'xpu') and torch.xpu.is_available())))"
)
# The system's proxy settings must not be asked for this machine's own server.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def serve(host: Host, port: int, open_browser: bool) -> None:
    """Serve ComfyUI's window until Ctrl-C. Raises DevError if the server ends by itself with an error."""
    log = STATE / "server.log"
    template = urllib.parse.urlencode({"template": SERVE_TEMPLATE, "source": PACK_NAME})
    address = f"http://{ADDRESS}:{port}/?{template}"
    with running_server(host, port, log) as process:
        say(f"ComfyUI with the example workflow: {address}")
        say("Other workflows: Workflow > Browse Templates > " + PACK_NAME + ". Ctrl-C stops the server.")
        if open_browser and has_display():
            webbrowser.open(address)
        try:
            code = process.wait()
        except KeyboardInterrupt:
            say("Stopping the server.")
            return
    if code:
        raise DevError(f"ComfyUI ended with exit code {code}; its output is in {log}.")


def has_display() -> bool:
    """Whether a person sits before this terminal and its browser has a window to open."""
    headless = sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return sys.stdout.isatty() and not headless


def prepare_base(host: Host) -> None:
    """Make ComfyUI's --base-directory: the pack in custom_nodes, the model folders, the demo's keyframes in input.

    With it neither ComfyUI's own folder nor anything else outside this checkout is written to.
    """
    for name in ("custom_nodes", "models", "input", "output", "user/default"):
        (BASE / name).mkdir(parents=True, exist_ok=True)
    link_pack(BASE / "custom_nodes" / PACK_NAME)
    write_model_paths(host)
    for picture in DEMO.glob("*.png"):
        with atomic_write(BASE / "input" / picture.name) as temporary:
            shutil.copyfile(picture, temporary)
    settings = BASE / "user" / "default" / "comfy.settings.json"
    if not settings.exists():
        # Otherwise the first visit covers the workflow with the template browser.
        settings.write_text(json.dumps({"Comfy.TutorialCompleted": True}), encoding="utf-8")


def link_pack(link: Path) -> None:
    """Let custom_nodes hold this checkout: by a link, on Windows by a junction, which needs no privilege."""
    if link.exists() and os.path.samefile(link, CHECKOUT):
        return
    remove_link(link)
    if sys.platform == "win32":
        # Not mklink: it is cmd's own, and cmd reads & and % in a path as its own signs.
        import _winapi

        _winapi.CreateJunction(str(CHECKOUT), str(link))
    else:
        os.symlink(CHECKOUT, link, target_is_directory=True)


def remove_link(link: Path) -> None:
    """Remove a link or a junction, never what it points to. Raises OSError if it is something else."""
    if link.is_symlink():
        link.unlink()
    elif os.path.lexists(link):
        # As an empty folder, which a junction is removed like.
        link.rmdir()


def write_model_paths(host: Host) -> None:
    """Show ComfyUI the demo's weights where they lie, and the models of a ComfyUI of the user's."""
    # The first folder of a kind is the one that nodes write to: what a user converts does not belong into demo/.
    sections = {
        "inbetween_converted": {"backward_motion": BASE / "models" / "backward_motion"},
        "inbetween_demo": {"checkpoints": DEMO, "backward_motion": DEMO},
    }
    models = host.folder / "models"
    if not host.is_ours and models.is_dir():
        sections["existing_comfyui"] = {folder.name: folder for folder in sorted(models.iterdir()) if folder.is_dir()}
    text = ""
    for section, folders in sections.items():
        # A JSON string is a YAML string, whatever characters the path holds.
        text += section + ":\n" + "".join(f"    {name}: {json.dumps(str(path))}\n" for name, path in folders.items())
    with atomic_write(MODEL_PATHS) as temporary:
        temporary.write_text(text, encoding="utf-8")


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


@contextmanager
def running_server(host: Host, port: int, log: Path, *options: object) -> Iterator[subprocess.Popen]:
    """A server with the pack loaded, answering at the port; stopped when the block ends. Raises DevError."""
    prepare_base(host)
    say(f"Starting ComfyUI; its output goes to {log}.")
    command = [host.python, host.folder / "main.py", "--listen", ADDRESS, "--port", port, "--disable-auto-launch"]
    command += ["--base-directory", BASE, "--extra-model-paths-config", MODEL_PATHS]
    command += ["--database-url", "sqlite:///:memory:"]
    if not runs([host.python, "-c", HAS_ACCELERATOR]):
        command += ["--cpu"]
    environment = clean_environment(
        PYTHONUNBUFFERED="1",
        PYTHONIOENCODING="utf-8",
        # Bytecode halves our ComfyUI's next start; a ComfyUI of the user's gets none written.
        PYTHONDONTWRITEBYTECODE="" if host.is_ours else "1",
    )
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            [str(part) for part in (*command, *options)],
            cwd=BASE,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            # Its own process group: Ctrl-C reaches dev.py only, which then stops the server in order.
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
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
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
