"""A remark is one line on the console and, while a server runs, on the node until a run without it."""

import asyncio
import json
import sys

import aiohttp
from comfy_execution.utils import CurrentNodeContext
from generative_inbetweening.common.remarks import remark, remarks_on_node
from helpers.server import Server

_TEXT = 3


def test_the_window_shows_it_on_the_node(server: Server):
    """By the real server: the text goes to Encode Keyframes and is taken away when the cause is gone."""

    def graph(frames: int) -> dict:
        def node(kind, **inputs):
            return {"class_type": kind, "inputs": inputs}

        return {
            "m": node("InbetweenLoadSVD", model_name="tiny-svd-xt/"),
            "a": node("LoadImage", image="first.png"),
            "b": node("LoadImage", image="last.png"),
            "e": node(
                "InbetweenEncodeKeyframes",
                clip_vision=["m", 1],
                vae=["m", 2],
                first_keyframe=["a", 0],
                last_keyframe=["b", 0],
                width=64,
                height=64,
                frames=frames,
                fps=7,
                motion_bucket=127,
                noise_augmentation=0.0,
                seed=0,
                fit="crop",
            ),
            "s": node("SaveLatent", samples=["e", 2], filename_prefix="remarks"),
        }

    async def texts(frames: int) -> list[tuple[str, str]]:
        shown = []
        async with aiohttp.ClientSession(server.url) as session, session.ws_connect("/ws?clientId=remarks") as socket:
            async with session.post("/prompt", json={"prompt": graph(frames), "client_id": "remarks"}) as answer:
                assert answer.status == 200, await answer.text()
            async for message in socket:
                if message.type == aiohttp.WSMsgType.BINARY and int.from_bytes(message.data[:4], "big") == _TEXT:
                    length = int.from_bytes(message.data[4:8], "big")
                    shown.append((message.data[8 : 8 + length].decode(), message.data[8 + length :].decode()))
                elif message.type == aiohttp.WSMsgType.TEXT:
                    told = json.loads(message.data)
                    assert told["type"] != "execution_error", told
                    if told["type"] == "execution_success":
                        break
        return shown

    node, text = asyncio.run(texts(40))[0]
    assert node == "e" and text.startswith("frames: 40 frames are far from")
    assert asyncio.run(texts(8)) == [("e", " ")]
    assert asyncio.run(texts(9)) == []


def test_without_a_server_only_the_console_is_told(caplog, monkeypatch):
    monkeypatch.delitem(sys.modules, "server", raising=False)
    with CurrentNodeContext("prompt", "7"), remarks_on_node():
        remark("once")
        remark("once")
    assert [record.getMessage() for record in caplog.records] == ["once"]
