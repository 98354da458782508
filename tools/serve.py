"""ComfyUI's window in a browser, opened on the example workflow."""

from __future__ import annotations

import os
import sys
import urllib.parse
import webbrowser

from .host import Host
from .places import PACK_NAME, SERVE_TEMPLATE, STATE
from .problems import DevError
from .server import ADDRESS, running_server
from .subprocesses import say


def serve(host: Host, port: int, open_browser: bool) -> None:
    """Serve until Ctrl-C. Raises DevError if the server ends by itself with an error."""
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
