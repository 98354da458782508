"""The shipped workflows through a real ComfyUI server: posted, followed, fetched; seeds, interruptions, errors."""

import io

import av
import numpy as np
import pytest
import safetensors.torch
import torch
from generative_inbetweening.nodes import InbetweenSettings
from generative_inbetweening.sampler.settings import PRESETS
from generative_inbetweening.tools.run_workflow import WorkflowFailed
from helpers.server import (
    BASE_UNET,
    FINE_TUNED_UNET,
    Server,
    api_workflow,
    inputs_of,
    node_of,
    small_workflow,
    with_settings,
)
from PIL import Image

SETTINGS = {item.id for item in InbetweenSettings.define_schema().inputs}
SAMPLERS = {
    "generative_inbetweening": "InbetweenDualDirectionKSampler",
    "generative_inbetweening_advanced": "SamplerCustomAdvanced",
}


def short(name: str = "generative_inbetweening", seed: int = 1, **settings) -> dict:
    """A shipped workflow with few steps, whose latents are saved by node `latents` instead of a video."""
    workflow = small_workflow(name)
    for node in [node_of(workflow, kind) for kind in ("VAEDecode", "CreateVideo", "SaveVideo")]:
        del workflow[node]
    workflow["latents"] = {
        "class_type": "SaveLatent",
        "inputs": {"samples": [node_of(workflow, SAMPLERS[name]), 0], "filename_prefix": "latents"},
    }
    # The released settings but for these, which the advanced workflow has in its own nodes.
    settings = {"steps": 4, "reinjections": 1, "reinjection_share": 0.5, "fusion": "weighted", **settings}
    if name == "generative_inbetweening":
        with_settings(workflow, **{key: value for key, value in settings.items() if key in SETTINGS})
    for content in workflow.values():
        content["inputs"].update({key: value for key, value in settings.items() if key in content["inputs"]})
        seed_of = {"InbetweenDualDirectionKSampler": "seed", "RandomNoise": "noise_seed"}.get(content["class_type"])
        if seed_of:
            content["inputs"][seed_of] = seed
    return workflow


def evaluations(workflow: dict) -> int:
    """steps + re-injections · int(share · steps)"""
    found = {key: value for content in workflow.values() for key, value in content["inputs"].items()}
    if "steps" not in found:
        found = PRESETS[found["preset"]]
    return found["steps"] + found["reinjections"] * int(found["reinjection_share"] * found["steps"])


def plain_sampler(seed: int = 7) -> dict:
    """The host's own KSampler on the models and keyframes of the shipped workflow."""
    workflow = short()
    node = node_of(workflow, "InbetweenDualDirectionKSampler")
    inputs = workflow[node]["inputs"]
    kept = {key: inputs[key] for key in ("model", "positive", "negative", "latent_image")}
    kept |= {"sampler_name": "euler", "scheduler": "karras"}
    workflow[node] = {
        "class_type": "KSampler",
        "inputs": {**kept, "seed": seed, "steps": 3, "cfg": 2.0, "denoise": 1.0},
    }
    return workflow


def latents(server: Server, workflow: dict) -> torch.Tensor:
    """The workflow's latents, really computed: nothing of the keyframes is in the host's cache."""
    run = server.run(server.fresh(workflow))
    assert run.progress
    return server.latents(run, "latents")


@pytest.fixture(scope="module")
def first_result(server) -> torch.Tensor:
    return latents(server, short(seed=1))


@pytest.mark.parametrize("name", SAMPLERS)
def test_workflow_gives_a_video(server, name):
    # The browser's tests may have left this very result in the same server's cache.
    # The demo's own, and the other at a quarter of its work.
    workflow = api_workflow(name) if name == "generative_inbetweening" else small_workflow(name)
    workflow = server.fresh(workflow)
    run = server.run(workflow)
    progress = run.progress[node_of(workflow, SAMPLERS[name])]
    # Every evaluation is told, and the bar's end is known from the start.
    total = evaluations(workflow)
    assert sorted(set(progress)) == [(value, total) for value in range(1, total + 1)]
    assert progress[-1] == (total, total)
    file = run.file(node_of(workflow, "SaveVideo"))
    assert file["filename"].endswith(".mp4") and file["type"] == "output"
    with av.open(io.BytesIO(server.view(file))) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        rate = video.streams.video[0].average_rate
    size = inputs_of(workflow, "InbetweenEncodeKeyframes")
    assert rate == inputs_of(workflow, "CreateVideo")["fps"]
    assert np.stack(frames).shape == (size["frames"], size["height"], size["width"], 3)


def test_matched_ends_are_the_pictures_in_the_saved_files(server):
    workflow = server.fresh(api_workflow("generative_inbetweening_advanced"))
    inputs_of(workflow, "BasicScheduler")["steps"] = 2
    matched = node_of(workflow, "InbetweenMatchKeyframes")
    del workflow[node_of(workflow, "SaveVideo")]
    workflow["frames"] = {"class_type": "SaveImage", "inputs": {"images": [matched, 0], "filename_prefix": "matched"}}
    saved = server.run(workflow).outputs["frames"]["images"]
    assert len(saved) == inputs_of(workflow, "InbetweenEncodeKeyframes")["frames"]
    for frame, end in ((saved[0], "first_keyframe"), (saved[-1], "last_keyframe")):
        source = workflow[workflow[matched]["inputs"][end][0]]["inputs"]["image"]
        given = {"filename": source, "subfolder": "", "type": "input"}
        ours, theirs = (np.asarray(Image.open(io.BytesIO(server.view(file))).convert("RGB")) for file in (frame, given))
        assert np.array_equal(ours, theirs)


def test_training_free_workflow_runs_by_its_preset(server):
    workflow = server.fresh(small_workflow("training_free"))
    run = server.run(workflow)
    steps = PRESETS["training-free"]["steps"]
    assert run.progress[node_of(workflow, "InbetweenDualDirectionKSampler")][-1] == (steps, steps)
    assert run.file(node_of(workflow, "SaveVideo"))["filename"].endswith(".mp4")


def test_same_seed_gives_the_same_video_and_another_seed_another(server, first_result):
    assert torch.equal(latents(server, short(seed=1)), first_result)
    assert not torch.allclose(latents(server, short(seed=2)), first_result, atol=0.1)


def test_both_workflows_give_the_same_video(server, first_result):
    assert torch.equal(latents(server, short("generative_inbetweening_advanced", seed=1)), first_result)


def test_interruption_stops_within_one_evaluation_and_leaves_nothing_behind(server, first_result):
    # Four times the pixels: an evaluation then takes longer than the messages about it.
    workflow = server.fresh(short(steps=25, width=128, height=128))
    run, taken = server.run_interrupted(workflow, after=3)
    reports = run.progress[node_of(workflow, "InbetweenDualDirectionKSampler")]
    first_after = reports[taken - 1][0] + 1
    assert reports[-1][0] <= first_after < evaluations(workflow)
    assert torch.equal(latents(server, short(seed=1)), first_result)


def test_failed_run_leaves_nothing_behind(server, first_result):
    # Fewer latent frames than encoded: it fails in the sampler, after the models are loaded.
    workflow = short(seed=1)
    workflow["cut"] = {
        "class_type": "LatentFromBatch",
        "inputs": {"samples": [node_of(workflow, "InbetweenEncodeKeyframes"), 2], "batch_index": 0, "length": 3},
    }
    inputs_of(workflow, "InbetweenDualDirectionKSampler")["latent_image"] = ["cut", 0]
    with pytest.raises(WorkflowFailed, match=r"latent_image: expected 8 frames.* found 3"):
        server.run(workflow)
    assert torch.equal(latents(server, short(seed=1)), first_result)


def test_plain_sampler_gives_the_same_before_and_after_ours(server):
    before = latents(server, plain_sampler())
    ours = latents(server, short(seed=3))
    assert torch.equal(latents(server, plain_sampler()), before)
    assert torch.equal(latents(server, short(seed=3)), ours)


def test_convert_node_writes_a_file_that_is_listed_and_works(server, first_result):
    convert = {
        "1": {
            "class_type": "InbetweenConvertBackwardMotion",
            "inputs": {
                "base": BASE_UNET,
                "fine_tuned": FINE_TUNED_UNET,
                "file_name": "made_here",
                "precision": "fp32",
                "overwrite": False,
            },
        }
    }
    server.run(convert)
    assert (server.base / "models" / "backward_motion" / "made_here.safetensors").is_file()
    with pytest.raises(WorkflowFailed, match="made_here.safetensors"):
        server.run({"1": {**convert["1"], "inputs": {**convert["1"]["inputs"], "precision": "fp16"}}})
    result = latents(server, short(seed=1, model_name="tiny-svd-xt/", backward_motion="made_here.safetensors"))
    assert result.shape == first_result.shape and torch.isfinite(result).all()


@pytest.mark.parametrize(
    ("kind", "setting", "value", "problem"),
    [
        ("InbetweenEncodeKeyframes", "frames", 1, "value_smaller_than_min"),
        ("InbetweenEncodeKeyframes", "width", 0, "value_smaller_than_min"),
        ("InbetweenEncodeKeyframes", "height", 1 << 20, "value_bigger_than_max"),
        ("InbetweenSettings", "reinjections", -1, "value_smaller_than_min"),
        ("InbetweenSettings", "reinjection_share", 1.1, "value_bigger_than_max"),
    ],
)
def test_numbers_out_of_range_are_refused_at_once(server, kind, setting, value, problem):
    workflow = short(**{setting: value})
    status, answer = server.refusal(workflow)
    assert status == 400
    (error,) = answer["node_errors"][node_of(workflow, kind)]["errors"]
    assert error["type"] == problem and error["extra_info"]["input_name"] == setting
    assert str(value) in error["message"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("model_name", "absent.safetensors"),
        ("model_name", "../tests/"),
        ("backward_motion", "absent.safetensors"),
        ("fit", "squeeze"),
        ("fusion", "sum"),
        ("strategy", "both"),
        ("temporal_attention", "none"),
        ("videos_per_call", "all"),
        ("sampler_name", "eule"),
        ("scheduler", "kara"),
        ("preset", "slow"),
    ],
)
def test_choices_that_there_are_not_are_refused(server, setting, value):
    # Newer hosts refuse them before the run, 0.3.75 leaves it to the node.
    with pytest.raises(WorkflowFailed) as failure:
        server.run(short(**{setting: value}))
    assert f"{setting}: " in str(failure.value) and value in str(failure.value)


@pytest.fixture(scope="module")
def another_model(server) -> str:
    name = "another_model.safetensors"
    path = server.base / "models" / "checkpoints" / name
    path.write_bytes(safetensors.torch.save({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4, 4)}))
    return name


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("width", 100, r"width: expected a multiple of 8, found 100\. Choose \d+\."),
        ("height", 63, r"height: expected a multiple of 8, found 63"),
        ("strategy", "dual-direction", r"model: expected backward-motion weights"),
    ],
)
def test_node_errors_say_what_to_do(server, setting, value, words):
    workflow = short(**{setting: value})
    if setting == "strategy":
        inputs_of(workflow, "InbetweenDualDirectionKSampler")["model"] = [node_of(workflow, "InbetweenLoadSVD"), 0]
    with pytest.raises(WorkflowFailed, match=words):
        server.run(workflow)


def test_another_model_is_refused(server, another_model):
    with pytest.raises(WorkflowFailed, match=r"model_name: Expected a Stable Video Diffusion checkpoint"):
        server.run(short(model_name=another_model))


def test_whole_unet_as_backward_motion_is_refused(server):
    (server.base / "models" / "backward_motion" / "whole.safetensors").write_bytes(
        safetensors.torch.save({"conv_in.weight": torch.zeros(4, 4)})
    )
    with pytest.raises(WorkflowFailed, match=r"backward_motion: .*Convert Backward Motion Weights"):
        server.run(short(backward_motion="whole.safetensors"))
