"""Run by ComfyUI's own Python, since it uses its aiohttp: run an API workflow on a server, and show its progress.

python run_workflow.py URL WORKFLOW.json
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from pathlib import Path
from typing import Any

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
        f"{refused['class_type']} ({node}): {error['message']}: {error['details']}"
        for node, refused in body.get("node_errors", {}).items()
        for error in refused["errors"]
    ]
    reasons = reasons or [body.get("error", {}).get("message", f"HTTP {answer.status}")]
    raise WorkflowFailed("ComfyUI refused the workflow: " + "; ".join(reasons))


async def follow(socket: aiohttp.ClientWebSocketResponse[Any], run: str, progress: Progress) -> None:
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


async def run_workflow(url: str, workflow: dict) -> None:
    client = uuid.uuid4().hex
    async with (
        aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=None)) as session,
        session.ws_connect("/ws", params={"clientId": client}, max_msg_size=0) as socket,
    ):
        await follow(socket, await queue(session, workflow, client), Progress(workflow))


def main() -> int:
    url, workflow = sys.argv[1:]
    try:
        asyncio.run(run_workflow(url, json.loads(Path(workflow).read_text(encoding="utf-8"))))
    except (WorkflowFailed, aiohttp.ClientError, OSError) as error:
        print(str(error) or type(error).__name__, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
