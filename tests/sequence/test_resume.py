"""Finished clips are taken up when nothing that changes them was changed, and only then; odd files cost little."""

import errno
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

import comfy.cli_args
import comfy.ldm.modules.attention
import comfy.lora
import comfy.sd
import pytest
import torch
from comfy.patcher_extension import PatcherInjection, WrappersMP
from comfy_extras.nodes_hypertile import HyperTile
from comfy_extras.nodes_model_advanced import ModelComputeDtype, ModelSamplingContinuousEDM
from comfy_extras.nodes_model_merging import ModelMergeSimple
from comfy_extras.nodes_tomesd import TomePatchModel
from generative_inbetweening.sequence import request
from generative_inbetweening.sequence import run as sequence_run
from generative_inbetweening.sequence.request import ClipSettings, request_fingerprint
from helpers.sequences import Scaling, keyframes, sequence
from helpers.server import Server, node_of, small_workflow, with_frames, with_settings
from helpers.small_model import settings

PACK = Path(__file__).resolve().parents[2]
LAYER = "diffusion_model.input_blocks.1.1.time_stack.0.attn1.to_v"
OUTPUT = "diffusion_model.out.2.weight"


def tome(model, ratio: float):
    return TomePatchModel.execute(model, ratio).args[0]


def hypertile(model, size: int):
    result = HyperTile.execute(model, size, 2, 0, False)
    return getattr(result, "args", result)[0]


def compute_dtype(model, dtype: str):
    return ModelComputeDtype().patch(model, dtype)[0]


def prediction(model, sampling: str):
    return ModelSamplingContinuousEDM().patch(model, sampling, 700.0, 0.002)[0]


def merged(model, ratio: float):
    other = model.clone()
    other.add_patches({OUTPUT: ("diff", (torch.ones(model.model.state_dict()[OUTPUT].shape),))})
    return ModelMergeSimple().merge(other, model, ratio)[0]


def lora_in_bypass(model, strength: float):
    up, down = torch.randn(2, 32, 4, generator=torch.manual_seed(0))
    lora = {f"{LAYER}.lora_up.weight": up, f"{LAYER}.lora_down.weight": down.T.contiguous()}
    return comfy.sd.load_bypass_lora_for_models(model, None, lora, strength, 0.0)[0] if strength else model


def injected(model, factor: float):
    model, layer = model.clone(), model.model.diffusion_model.out[2]

    def inject(_):
        layer.forward = lambda x: type(layer).forward(layer, x) * factor

    model.set_injections("scaled", [PatcherInjection(inject, lambda _: layer.__dict__.pop("forward"))])
    return model


def wrapped(model, factor: float):
    model = model.clone()
    model.add_wrapper_with_key(
        WrappersMP.APPLY_MODEL, "scaled", lambda executor, *args, **kwargs: executor(*args, **kwargs) * factor
    )
    return model


def after_cfg(model, factor: float):
    model = model.clone()
    model.set_model_sampler_post_cfg_function(Scaling(factor))
    return model


def output_replaced(model, factor: float):
    model, layer = model.clone(), model.model.diffusion_model.out[2]
    model.add_object_patch("diffusion_model.out.2.forward", lambda x: type(layer).forward(layer, x) * factor)
    return model


needs_bypass = pytest.mark.skipif(
    not hasattr(comfy.sd, "load_bypass_lora_for_models"), reason="this ComfyUI has no LoRA in bypass mode"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("put", "before", "after"),
    [
        (tome, 0.3, 0.7),
        (hypertile, 256, 32),
        (compute_dtype, "default", "bf16"),
        (prediction, "v_prediction", "eps"),
        (merged, 0.5, 0.6),
        pytest.param(lora_in_bypass, 0.0, 1.0, marks=needs_bypass),
        (injected, 1.0, 1.5),
        (wrapped, 1.0, 1.5),
        (after_cfg, 1.0, 1.5),
        (output_replaced, 1.0, 1.5),
    ],
)
def test_whatever_a_node_puts_on_the_model_is_known(models, sampled, put, before, after):
    patched = [(put(models[0], value), *models[1:]) for value in (before, after)]
    for count, changed in enumerate(patched, 1):
        sequence(changed, keyframes(2), frames_per_segment="2")
        assert len(sampled) == count
    # What the runs leave in the nodes and in the model makes no difference.
    for same in (patched[1], (put(models[0], before), *models[1:])):
        sequence(same, keyframes(2), frames_per_segment="2")
    assert len(sampled) == 2


@pytest.mark.slow
def test_what_the_host_was_started_with_counts(models, sampled, monkeypatch):
    def run() -> int:
        sequence(models, keyframes(2), frames_per_segment="2")
        return len(sampled)

    assert run() == run() == 1
    monkeypatch.setattr(comfy.ldm.modules.attention, "optimized_attention", comfy.ldm.modules.attention.attention_split)
    assert run() == run() == 2
    monkeypatch.setattr(comfy.cli_args.args, "force_upcast_attention", True)
    assert run() == run() == 3
    monkeypatch.setattr(comfy.cli_args.args, "fast", {comfy.cli_args.PerformanceFeature.Fp16Accumulation})
    assert run() == run() == 4


def test_what_cannot_be_known_is_neither_kept_nor_taken_up(models, sampled, output, caplog):
    numbers = iter(lambda: 1.0, None)

    def scaled(executor, *args, **kwargs):
        return executor(*args, **kwargs) * (next(numbers) + next(endless))

    endless = (0.0 for _ in range(1000))
    model = models[0].clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "scaled", scaled)
    for count in (1, 2):
        sequence((model, *models[1:]), keyframes(2), frames_per_segment="2")
        assert len(sampled) == count
    assert "segments are not kept in this run" in caplog.text and "generator" in caplog.text
    assert not output.exists()


def test_through_the_server_another_ratio_is_sampled_again(server: Server):
    workflow = small_workflow("keyframe_sequence")
    node = node_of(workflow, "InbetweenKeyframeSequence")
    inputs = workflow[node]["inputs"]
    inputs.update(resume=True, seed=43)
    with_frames(workflow, 2)
    with_settings(workflow, "InbetweenKeyframeSequence", steps=1, reinjections=0)
    for kind in ("CreateVideo", "SaveVideo", "InbetweenContactSheet", "InbetweenReport"):
        for name in [name for name, entry in workflow.items() if entry["class_type"] == kind]:
            del workflow[name]
    workflow["tome"] = {"class_type": "TomePatchModel", "inputs": {"model": inputs["model"], "ratio": 0.3}}
    inputs["model"] = ["tome", 0]
    workflow["images"] = {"class_type": "SaveImage", "inputs": {"images": [node, 0], "filename_prefix": "resume"}}
    folder, counts = server.base / "output" / sequence_run.FOLDER, []
    for ratio in (0.3, 0.7, 0.3):
        workflow["tome"]["inputs"]["ratio"] = ratio
        server.run(workflow)
        counts.append(len(list(folder.iterdir())))
    clips = counts[1] - counts[0]
    assert clips > 0 and counts[2] == counts[1]


def test_a_sequence_with_another_setting_is_another_request(models):
    chosen = settings()
    clip = ClipSettings(64, 64, 7, 127, 0.02, "crop", 1, chosen)
    others = [
        replace(clip, separate_noise=True),
        *(
            replace(clip, sampling=replace(chosen, sampler=replace(chosen.sampler, **{name: value})))
            for name, value in {"jump_length": 2, "repeat_first_step": False, "noise_ratio": 0.9}.items()
        ),
        *(
            replace(clip, sampling=replace(chosen, guider=replace(chosen.guider, **{name: value})))
            for name, value in {"motion_prior_distillation": True, "distilled_share": 0.2, "distillations": 1}.items()
        ),
    ]
    assert len({request_fingerprint(*models, each) for each in (clip, *others)}) == len(others) + 1


def test_other_code_of_the_pack_is_another_request(models, tmp_path, monkeypatch):
    def with_code(name: str, old: str, new: str):
        for folder in ("common", "sampler", "sequence", "weights"):
            shutil.copytree(PACK / folder, tmp_path / name / folder, ignore=shutil.ignore_patterns("__pycache__"))
        file = tmp_path / name / "sampler" / "method" / "middle_keyframes.py"
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new), encoding="utf-8")
        monkeypatch.setattr(request, "_PACK", tmp_path / name)
        return request_fingerprint(*models, ClipSettings(64, 64, 7, 127, 0.02, "crop", 1, settings()))

    same = with_code("same", "REACH = 3 / 8", "REACH = 3 / 8")
    assert with_code("comment", '"""Keyframes inside a clip', '"""Something else\n\n# too') == same
    assert with_code("number", "REACH = 3 / 8", "REACH = 3 / 7") != same


def spoiled(monkeypatch, which: int, number: float):
    """The segment of that number comes out with one such number in it."""
    original, calls = sequence_run.dual_direction_ksampler, []

    def sample(*arguments):
        result = original(*arguments)
        calls.append(result)
        if len(calls) == which:
            result["samples"].flatten()[5] = number
        return result

    monkeypatch.setattr(sequence_run, "dual_direction_ksampler", sample)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_segment_with_nan_is_not_kept_and_a_second_run_is_its_cure(
    models,
    sampled,
    output,
    monkeypatch,
    number,
):
    with monkeypatch.context() as once:
        spoiled(once, 2, number)
        with pytest.raises(ValueError, match="segment 2 came out with NaN or infinite.*Queue again"):
            sequence(models, keyframes(4), frames_per_segment="2")
    assert len(list(output.iterdir())) == 1
    sampled.clear()
    images, _ = sequence(models, keyframes(4), frames_per_segment="2")
    assert len(sampled) == 2 and images.isfinite().all()


def put_folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").touch()


ODD = {
    "folder": put_folder,
    "dangling link": lambda path: path.symlink_to(path.parent / "nothing"),
    "link to itself": lambda path: path.symlink_to(path),
    "fifo": getattr(os, "mkfifo", None),
    "text": lambda path: path.write_text("clip"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, put in ODD.items() if put])
def test_odd_things_under_a_clips_name_cost_that_clip_only(models, sampled, output, name):
    images, _ = sequence(models, keyframes(3), frames_per_segment="2")
    clip = min(output.iterdir())
    clip.unlink()
    ODD[name](clip)
    ODD[name](output / f"{'a' * 32}.safetensors")
    ODD[name](output / f".{'a' * 32}.safetensors.12345678.partial")
    sampled.clear()
    again, _ = sequence(models, keyframes(3), frames_per_segment="2")
    assert torch.equal(again, images) and len(sampled) == 1


def refused(*_, **__):
    raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("failing", ["listdir", "mkdir"])
def test_a_folder_that_cannot_be_read_or_written(
    models,
    output,
    sampled,
    monkeypatch,
    caplog,
    failing,
):
    if failing == "listdir":
        output.mkdir(parents=True)
        original = os.listdir
        monkeypatch.setattr(os, "listdir", lambda path: refused() if Path(path) == output else original(path))
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text("no folder")
    caplog.set_level(logging.INFO)
    images, _ = sequence(models, keyframes(2), frames_per_segment="2")
    assert len(images) == 2 and "cannot be kept for a later run" in caplog.text
