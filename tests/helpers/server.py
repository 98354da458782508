"""A real ComfyUI server in a folder of its own, and what the tests ask of it."""

import asyncio
import json
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
import safetensors.torch
import torch
from generative_inbetweening.tools.host import Host
from generative_inbetweening.tools.paths import DEMO, PACK_NAME
from generative_inbetweening.tools.run_workflow import WorkflowFailed, follow, queue
from generative_inbetweening.tools.server import ADDRESS, free_port, link_pack, remove_link, running_server

ROOT = Path(__file__).resolve().parents[2]
API_WORKFLOWS = ROOT / "workflows" / "api"
HOST = Path(os.environ.get("INBETWEEN_COMFYUI", ROOT / ".comfyui")).resolve()
# The reference's diffusers folders, as the host lists them.
BASE_UNET, FINE_TUNED_UNET = "tiny-svd/", "tiny-svd-reverse-motion/"
SMALL = 64


def api_workflow(name: str) -> dict:
    return json.loads((API_WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def small_workflow(name: str) -> dict:
    """The same with a quarter of the pixels, for tests to which the pictures do not matter."""
    workflow = api_workflow(name)
    for content in workflow.values():
        content["inputs"].update({side: SMALL for side in ("width", "height") if side in content["inputs"]})
    return workflow


def node_of(workflow: dict, class_type: str) -> str:
    """The id of the only node of a type in an API workflow."""
    ids = [node for node, content in workflow.items() if content["class_type"] == class_type]
    assert len(ids) == 1, f"{class_type}: {ids}"
    return ids[0]


def inputs_of(workflow: dict, class_type: str) -> dict:
    return workflow[node_of(workflow, class_type)]["inputs"]


def with_settings(workflow: dict, kind: str = "InbetweenDualDirectionKSampler", **settings) -> dict:
    """The API workflow, in which the node of that kind now samples with these settings of the preset `paper`."""
    workflow["own settings"] = {"class_type": "InbetweenSettings", "inputs": {"preset": "paper", **settings}}
    inputs_of(workflow, kind)["settings"] = ["own settings", 0]
    return workflow


def with_frames(workflow: dict, frames: int) -> dict:
    """The API workflow, in which every Keyframe is so many frames from the next."""
    for content in workflow.values():
        if content["class_type"] == "InbetweenKeyframe":
            content["inputs"]["frames"] = frames
    return workflow


@dataclass
class Run:
    """What the server told about one run: (value, max) of each node's progress bar, and each node's output."""

    id: str = ""
    progress: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    outputs: dict[str, dict] = field(default_factory=dict)
    on_progress: Callable[[], None] | None = None

    # As tools/run_workflow.py calls it.
    def show(self, node: str, value: float = 0, maximum: float = 0) -> None:
        if maximum:
            self.progress.setdefault(node, []).append((int(value), int(maximum)))
            if self.on_progress is not None:
                self.on_progress()

    def title(self, node: str) -> str:
        return f"node {node}"

    def file(self, node: str, kind: str = "images") -> dict:
        """A node's only output file, as /view wants it."""
        files = self.outputs[node][kind]
        assert len(files) == 1, files
        return {key: files[0][key] for key in ("filename", "subfolder", "type")}


@dataclass
class Server:
    """A running ComfyUI at `url`, with its folders below `base`."""

    url: str
    base: Path

    def ask(self, method: str, path: str, **arguments) -> tuple[int, object]:
        """(status, answer) of one request; the answer is read as JSON where it is JSON, else it is bytes."""

        async def request():
            async with (
                aiohttp.ClientSession(self.url) as session,
                session.request(method, path, **arguments) as answer,
            ):
                is_json = answer.content_type == "application/json"
                return answer.status, await (answer.json() if is_json else answer.read())

        return asyncio.run(request())

    def refusal(self, workflow: dict) -> tuple[int, dict]:
        """(status, answer) for a workflow that the server should refuse before it runs."""
        return self.ask("POST", "/prompt", json={"prompt": workflow, "client_id": uuid.uuid4().hex})

    def run(self, workflow: dict) -> Run:
        """Runs an API workflow to its end. Raises WorkflowFailed when the server refuses it or a node fails."""
        run = Run()
        asyncio.run(self._run(workflow, run))
        return run

    def run_interrupted(self, workflow: dict, after: int) -> tuple[Run, int]:
        """Runs a workflow and interrupts it after so many progress reports.

        Returns the run, and how many reports had come when the server had taken the interruption.
        """
        run, seen = Run(), []
        with pytest.raises(WorkflowFailed, match="interrupted"):
            asyncio.run(self._run(workflow, run, after, seen))
        return run, seen[0]

    async def _run(self, workflow: dict, run: Run, interrupt_after: int | None = None, seen: list | None = None):
        client, reports, tasks = uuid.uuid4().hex, 0, []
        async with aiohttp.ClientSession(self.url, timeout=aiohttp.ClientTimeout(total=None)) as session:

            async def interrupt():
                async with session.post("/interrupt", json={}) as answer:
                    answer.raise_for_status()
                seen.append(reports)

            def count():
                nonlocal reports
                reports += 1
                if reports == interrupt_after:
                    tasks.append(asyncio.create_task(interrupt()))

            run.on_progress = count
            async with session.ws_connect("/ws", params={"clientId": client}, max_msg_size=0) as socket:
                # Newer hosts merge reports of progress that come quickly, but for those with a preview.
                run.id = await queue(session, workflow, client, preview_method="latent2rgb")
                try:
                    await follow(socket, run.id, run)
                finally:
                    await asyncio.gather(*tasks)
            run.outputs = await self._outputs(session, run.id)

    @staticmethod
    async def _outputs(session: aiohttp.ClientSession, run: str) -> dict:
        # The history is written a moment after the success is told.
        for _ in range(200):
            async with session.get(f"/history/{run}") as answer:
                history = await answer.json()
            if run in history:
                return history[run]["outputs"]
            await asyncio.sleep(0.05)
        raise WorkflowFailed("The run is not in the history.")

    def log(self) -> str:
        """What the server has written on its console."""
        return (self.base / "server.log").read_text(encoding="utf-8", errors="replace")

    def view(self, file: dict) -> bytes:
        """An output file's content, through /view."""
        status, content = self.ask("GET", "/view", params=file)
        assert status == 200
        return content

    def latents(self, run: Run, node: str) -> torch.Tensor:
        """The tensor that a SaveLatent node wrote."""
        return safetensors.torch.load(self.view(run.file(node, "latents")))["latent_tensor"]

    def fresh(self, workflow: dict) -> dict:
        """The same workflow on copies of its pictures: the host then computes again what it holds in its cache."""
        workflow = json.loads(json.dumps(workflow))
        for content in workflow.values():
            if content["class_type"] == "LoadImage":
                name = content["inputs"]["image"]
                content["inputs"]["image"] = f"{uuid.uuid4().hex[:8]}_{name}"
                shutil.copyfile(self.base / "input" / name, self.base / "input" / content["inputs"]["image"])
        return workflow


def prepare(base: Path) -> Path:
    """Fills a base folder and returns the file that shows the server the demo's and the reference's models."""
    for name in ("custom_nodes", "models/backward_motion", "models/checkpoints", "input", "output", "user/default"):
        (base / name).mkdir(parents=True)
    link_pack(base / "custom_nodes" / PACK_NAME)
    for picture in DEMO.glob("*.png"):
        shutil.copyfile(picture, base / "input" / picture.name)
    paths = base / "models.yaml"
    # The first folder of its kind is the one that Convert Backward Motion Weights writes to.
    paths.write_text(
        "tests:\n    is_default: true\n"
        f"    backward_motion: {json.dumps(str(base / 'models' / 'backward_motion'))}\n"
        f"    diffusers: {json.dumps(str(ROOT / 'tests' / 'reference'))}\n",
        encoding="utf-8",
    )
    return paths


@contextmanager
def started(base: Path) -> Iterator[Server]:
    """A server with its folders in `base`, which is made; on the CPU, where equal runs are equal to the last bit."""
    base.mkdir()
    paths, port = prepare(base), free_port()
    # The last --base-directory counts; every file of model paths is read.
    options = ("--base-directory", base, "--extra-model-paths-config", paths, "--disable-api-nodes", "--cpu")
    with running_server(Host(HOST, Path(sys.executable)), port, base / "server.log", *options):
        yield Server(f"http://{ADDRESS}:{port}", base)
    remove_link(base / "custom_nodes" / PACK_NAME)
