"""Input far from training is sampled, with one line on the console and on the node; ordinary input has none."""

import asyncio
import json
import sys

import aiohttp
import pytest
import torch
from comfy_execution.utils import CurrentNodeContext
from generative_inbetweening.common.remarks import remark, remarks_on_node
from generative_inbetweening.nodes import InbetweenKeyframeSequence
from helpers.comfyui_server import Server
from helpers.small_model import DEFAULTS, encode, pictures
from test_pictures import WIDE, encoded_pictures

pytest_plugins = ["helpers.server_fixture"]
_TEXT = 3


def lines(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize(("frames", "told"), [(2, True), (6, True), (8, False), (14, False), (25, False), (40, True)])
def test_frame_counts_far_from_training(models, caplog, frames, told):
    encode(models, frames)
    assert (
        lines(caplog)
        == [
            (
                f"frames: {frames} frames are far from what the models were trained on, 14 (SVD) or 25 "
                "(SVD-XT). Expect a poorer video."
            )
        ]
        * told
    )


@pytest.mark.parametrize(
    ("shape", "fit", "told"),
    [
        ((96, 128), "crop", False),
        ((64, 160), "crop", True),
        ((64, 80), "stretch", False),
        ((160, 64), "stretch", True),
        ((64, 160), "pad", False),
    ],
)
def test_aspects_far_from_the_videos(models, caplog, shape, fit, told):
    encoded_pictures(models, torch.rand(1, *shape, 3), pictures()[1], fit)
    assert [line.split(":")[0] for line in lines(caplog)] == ["first_keyframe"] * told


def test_equal_keyframes(models, caplog):
    encoded_pictures(models, WIDE, WIDE + 0.001, "pad")
    assert lines(caplog) == [
        "last_keyframe: both keyframes of a clip are the same picture. Expect a video that hardly moves."
    ]


def sequence(models, keyframes, **changes):
    settings = {**DEFAULTS, "steps": 1, "guidance_max": 1.0}
    del settings["denoise"]
    return InbetweenKeyframeSequence.execute(
        models[0],
        models[1],
        models[2],
        keyframes,
        **{
            **settings,
            "frames_per_segment": "3",
            "loop": False,
            "width": 64,
            "height": 64,
            "fps": 7,
            "motion_bucket": 127,
            "noise_augmentation": 0.0,
            "fit": "crop",
            "subdivisions": 0,
            "resume": False,
            **changes,
        },
    ).args


def test_a_sequence_says_each_once(models, caplog):
    first, last = (picture.repeat(1, 1, 2, 1) for picture in pictures())
    sequence(models, torch.cat([first, first, last, last]).half(), guiding_frames=1)
    assert [line.split(":")[0] for line in lines(caplog)] == ["keyframes", "frames_per_segment", "keyframes"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_sequence_of_keyframes_of_other_number_formats(models, dtype):
    keyframes = torch.cat([WIDE, WIDE.flip(1)]).to(dtype)
    assert torch.equal(sequence(models, keyframes)[0], sequence(models, keyframes.float())[0])


def test_a_sequence_names_the_clip_of_another_model(models, tmp_path):
    from test_pictures import clip_of

    with pytest.raises(ValueError, match="^clip_vision: expected CLIP image embeddings .* found 24"):
        sequence((models[0], clip_of(tmp_path), models[2]), torch.cat(pictures()))


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
    assert lines(caplog) == ["once"]
