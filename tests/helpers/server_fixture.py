"""A real ComfyUI server with the pack, the demo's files and the reference's models, in a folder of its own.

A pytest plugin: a test module that says `pytest_plugins = ["helpers.server_fixture"]` has the fixture `server`, one server for
the whole test run.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from generative_inbetweening.tools.base_folder import link_pack, remove
from generative_inbetweening.tools.host import Host
from generative_inbetweening.tools.places import DEMO, PACK_NAME
from generative_inbetweening.tools.server import ADDRESS, free_port, running_server

from helpers.comfyui_server import ROOT, Server

HOST = Path(os.environ.get("INBETWEEN_COMFYUI", ROOT / ".comfyui")).resolve()


def prepare(base: Path) -> Path:
    """Fills a base folder and returns the file that shows the server the demo's and the reference's models."""
    for name in ("custom_nodes", "models/backward_motion", "models/checkpoints", "input", "output", "user/default"):
        (base / name).mkdir(parents=True)
    link_pack(base / "custom_nodes" / PACK_NAME)
    for picture in ("first.png", "last.png"):
        shutil.copyfile(DEMO / picture, base / "input" / picture)
    paths = base / "models.yaml"
    # The first folder of its kind is the one that Convert Backward Motion Weights writes to.
    paths.write_text(
        "tests:\n    is_default: true\n"
        f"    backward_motion: {json.dumps(str(base / 'models' / 'backward_motion'))}\n"
        f"    diffusers: {json.dumps(str(ROOT / 'tests' / 'reference'))}\n",
        encoding="utf-8",
    )
    return paths


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The real server on the CPU, where equal runs are equal to the last bit."""
    base = tmp_path_factory.mktemp("comfyui") / "base"
    base.mkdir()
    paths, port = prepare(base), free_port()
    # The last --base-directory counts; every file of model paths is read.
    options = ("--base-directory", base, "--extra-model-paths-config", paths, "--disable-api-nodes", "--cpu")
    with running_server(Host(HOST, Path(sys.executable)), port, base / "server.log", *options):
        yield Server(f"http://{ADDRESS}:{port}", base)
    remove(base / "custom_nodes" / PACK_NAME)
