"""Run by ComfyUI's own Python: queue an API workflow, show its progress, fetch the video that it saves.

python follow_workflow.py URL WORKFLOW.json VIDEO.mp4
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import uuid
from pathlib import Path

import aiohttp


class WorkflowFailed(Exception):
    """The server refused the workflow, or a node of it failed."""


class Progress:
    """Prints the node at work and, every tenth, how far it is."""

    def __init__(self, workflow: dict) -> None:
        self.workflow = workflow
        self.shown: tuple[str, int] | None = None

    def title(self, node: str) -> str:
        found = self.workflow.get(node, {})
        return found.get("_meta", {}).get("title") or found.get("class_type", f"node {node}")

    def show(self, node: str, value: float = 0, maximum: float = 0) -> None:
        tenth = int(10 * value / maximum) if maximum else 0
        if self.shown == (node, tenth):
            return
        if self.shown is None or self.shown[0] != node or tenth:
            count = f": {int(value)} of {int(maximum)}" if tenth else ""
            print(f"  {self.title(node)}{count}", flush=True)
        self.shown = (node, tenth)


async def queue(session: aiohttp.ClientSession, workflow: dict, client: str, **extra_data: str) -> str:
    """Queue the workflow; the id of its run. Raises WorkflowFailed with the server's reasons."""
    prompt = {"prompt": workflow, "client_id": client, "extra_data": extra_data}
    async with session.post("/prompt", json=prompt) as answer:
        body = await answer.json()
    if answer.status == 200:
        return body["prompt_id"]
    reasons = [
        f"{problem['class_type']} ({node}): {error['message']}: {error['details']}"
        for node, problem in body.get("node_errors", {}).items()
        for error in problem["errors"]
    ]
    reasons = reasons or [body.get("error", {}).get("message", f"HTTP {answer.status}")]
    raise WorkflowFailed("ComfyUI refused the workflow: " + "; ".join(reasons))


async def follow(socket: aiohttp.ClientWebSocketResponse, run: str, progress: Progress) -> None:
    """Show progress until the run ends. Raises WorkflowFailed."""
    async for message in socket:
        if message.type != aiohttp.WSMsgType.TEXT:
            continue
        event = json.loads(message.data)
        kind, data = event["type"], event.get("data", {})
        if data.get("prompt_id") != run:
            continue
        if kind == "execution_success":
            return
        if kind == "executing" and data["node"] is not None:
            progress.show(data["node"])
        elif kind == "progress":
            progress.show(data["node"], data["value"], data["max"])
        elif kind == "execution_error":
            raise WorkflowFailed(f"{progress.title(data['node_id'])} failed: {data['exception_message'].strip()}")
        elif kind == "execution_interrupted":
            raise WorkflowFailed("The run was interrupted.")
    raise WorkflowFailed("ComfyUI ended before the workflow did.")


async def saved_video(session: aiohttp.ClientSession, run: str) -> dict:
    """The run's saved mp4 as /view wants it. Raises WorkflowFailed if there is none."""
    for _ in range(100):
        async with session.get(f"/history/{run}") as answer:
            history = await answer.json()
        if run in history:
            break
        await asyncio.sleep(0.1)
    for output in history.get(run, {}).get("outputs", {}).values():
        for files in output.values():
            for file in files:
                if isinstance(file, dict) and str(file.get("filename", "")).endswith(".mp4"):
                    return {key: file[key] for key in ("filename", "subfolder", "type")}
    raise WorkflowFailed("The workflow saved no mp4 video.")


async def run_workflow(url: str, workflow: dict, target: Path) -> None:
    client = uuid.uuid4().hex
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(url, timeout=timeout) as session:
        async with session.ws_connect("/ws", params={"clientId": client}, max_msg_size=0) as socket:
            run = await queue(session, workflow, client)
            await follow(socket, run, Progress(workflow))
        async with session.get("/view", params=await saved_video(session, run)) as answer:
            answer.raise_for_status()
            content = await answer.read()
    # A name that nobody can know, and no file there yet: in a shared folder it could be a link to something else.
    partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}.partial")
    try:
        with partial.open("xb") as stream:
            stream.write(content)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def main() -> int:
    url, workflow, target = sys.argv[1:]
    try:
        asyncio.run(run_workflow(url, json.loads(Path(workflow).read_text(encoding="utf-8")), Path(target)))
    except (WorkflowFailed, aiohttp.ClientError, OSError) as error:
        print(str(error) or type(error).__name__, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
