"""Finished clips are taken up when nothing that changes them was changed, and only then; odd files cost little."""

import errno
import logging
import os
import sys
import threading
import types
from pathlib import Path

import comfy.cli_args
import comfy.ldm.modules.attention
import comfy.lora
import comfy.sd
import pytest
import torch
from comfy.patcher_extension import CallbacksMP, PatcherInjection, WrappersMP
from comfy_extras.nodes_hypertile import HyperTile
from comfy_extras.nodes_model_advanced import ModelComputeDtype, ModelSamplingContinuousEDM
from comfy_extras.nodes_model_merging import ModelMergeSimple
from comfy_extras.nodes_tomesd import TomePatchModel
from generative_inbetweening.sequence import run as sequence_run
from generative_inbetweening.sequence import store as sequence_files
from generative_inbetweening.sequence.fingerprint import CannotBeKnown, fingerprint, model_fingerprint
from generative_inbetweening.sequence.store import FinishedClips
from generative_inbetweening.weights.attach import beside_its_weights
from helpers.sequences import keyframes, sequence
from helpers.server import Server, api_workflow, node_of
from helpers.small_model import load

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


class Scaling:
    """A patch that keeps its number to itself."""

    def __init__(self, factor: float):
        self.factor = factor

    def __call__(self, arguments):
        return arguments["denoised"] * self.factor


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


@pytest.mark.parametrize(
    ("put", "before", "after"),
    [
        (tome, 0.3, 0.7),
        (hypertile, 256, 32),
        (compute_dtype, "default", "bf16"),
        (prediction, "v_prediction", "eps"),
        pytest.param(merged, 0.5, 0.6, marks=pytest.mark.slow),
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


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """The same models, loaded again."""
    return load(tmp_path_factory.mktemp("others"))


def keys(*requests) -> set[str]:
    return {model_fingerprint(*request) for request in requests}


def test_every_number_of_every_model_counts(models, others):
    assert len(keys(models, others)) == 1
    for module in (others[0].model.diffusion_model, others[1].model, others[2].first_stage_model):
        weights = list(module.parameters())
        for weight in (weights[1], weights[-1]):
            before = weight.detach().clone()
            weight.data.flatten()[-1] += 1
            assert len(keys(models, others)) == 2
            weight.data.copy_(before)
    assert len(keys(models, others)) == 1


def test_weights_of_the_backward_motion_and_their_strength_count(models, tmp_path):
    (bank,) = models[0].additional_models.values()
    weight = next(bank[0].model.parameters())
    first = keys(models)
    weight.data.mul_(1.5)
    second = keys(models)
    weight.data.div_(1.5)
    assert keys(models) == first != second


def test_where_a_copy_of_the_backward_motion_is_does_not_count(models):
    before, moved = keys(models), models[0].clone()
    moved.load_device = torch.device("cpu", 0)
    assert beside_its_weights(moved) is not moved
    assert keys(models) == before


def test_what_callbacks_attachments_and_hooks_hold_counts(models):
    def put(change):
        model = models[0].clone()
        change(model)
        return model, *models[1:]

    requests = [models]
    for number in (1.0, 2.0):
        requests.append(put(lambda model, number=number: model.add_callback(CallbacksMP.ON_PRE_RUN, lambda _: number)))
        requests.append(put(lambda model, number=number: model.set_attachments("mine", {"deep": [[[[[(number,)]]]]]})))
        hook = comfy.hooks.WeightHook(strength_model=number)
        requests.append(
            put(
                lambda model, number=number, hook=hook: model.add_hook_patches(
                    hook, {OUTPUT: ("diff", (torch.ones(1),))}, number
                )
            )
        )
        requests.append(
            put(lambda model, number=number: model.set_model_patch_replace(Scaling(number), "attn1", "input", 1))
        )
    assert len(keys(*requests)) == len(requests)


def test_a_hook_on_a_module_counts(models):
    before = keys(models)
    handle = models[0].model.diffusion_model.out[2].register_forward_hook(lambda module, args, result: result * 2)
    changed = keys(models)
    handle.remove()
    assert keys(models) == before != changed


def test_values_of_many_kinds():
    class Slots:
        __slots__ = ("number",)

        def __init__(self, number):
            self.number = number

    class Other(Slots):
        pass

    def returning(number, default=0):
        return lambda: (number, default)

    values = [
        None,
        0,
        0.0,
        -0.0,
        False,
        "",
        "\ud800",
        b"",
        (),
        [],
        {},
        set(),
        {"a": 1},
        {"a": 2},
        {"b": 1},
        {"a": 1, "b": 2},
        {"b": 2, "a": 1},
        float("nan"),
        Slots(1),
        Slots(2),
        Other(1),
        returning(1),
        returning(2),
        returning(1, 1),
        Scaling(1),
        Scaling(2),
        Scaling(1).__call__,
        len,
        torch.sin,
        torch.zeros(2),
        torch.zeros(2, 1),
        torch.zeros(2).half(),
        torch.zeros(2, dtype=torch.bfloat16),
        torch.zeros(4)[::2] + 1,
        torch.float16,
        torch.Generator().manual_seed(1),
        torch.Generator().manual_seed(2),
        torch.nn.Linear(1, 1),
        torch.nn.Identity(),
        torch.nn.ReLU(),
        Path("a"),
        Path("b"),
        range(2),
        {1, 2},
        frozenset((1, 2)),
        iter([1, 2]),
        2**70,
        1j,
    ]
    digits = [fingerprint(value) for value in values]
    assert len(set(digits)) == len(values) and digits == [fingerprint(value) for value in values]
    assert fingerprint(Scaling(1)) == fingerprint(Scaling(1)) and fingerprint({1, "a"}) == fingerprint({"a", 1})
    circle = [1]
    circle.append(circle)
    assert fingerprint(circle) != fingerprint([1])


@pytest.mark.parametrize(
    ("thing", "name"),
    [
        ((number for number in range(9)), "generator"),
        (threading.Lock(), "lock"),
        (torch.zeros(1, device="meta"), "Tensor"),
    ],
)
def test_what_cannot_be_looked_into_is_not_known(thing, name):
    with pytest.raises(CannotBeKnown, match=f"{name}.* in .*Scaling"):
        fingerprint([Scaling(Scaling(thing))])


def test_numbers_of_another_packs_module_count(monkeypatch):
    imported, in_a_package = (types.ModuleType("another_pack") for _ in range(2))
    in_a_package.settings = types.ModuleType("another_pack.settings")
    later = types.ModuleType("imported_later")
    monkeypatch.setitem(globals(), "another_pack", in_a_package)
    monkeypatch.setitem(sys.modules, "imported_later", later)

    def patch(arguments):
        from imported_later import FACTOR

        return arguments["denoised"] * imported.SCALE * another_pack.settings.STRENGTH * FACTOR  # noqa: F821

    digits = []
    for imported.SCALE, in_a_package.settings.STRENGTH, later.FACTOR, imported.LOCK in (
        (1.0, 1.0, 1.0, None),
        (2.0, 1.0, 1.0, None),
        (1.0, 2.0, 1.0, None),
        (1.0, 1.0, 2.0, None),
        (1.0, 1.0, 1.0, threading.Lock()),
    ):
        digits.append(fingerprint(patch))
    assert len(set(digits)) == 4 and digits[0] == digits[4]


def test_nested_too_deeply_is_not_known():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(CannotBeKnown, match="list"):
        fingerprint(deep)


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
    assert "neither kept nor taken up" in caplog.text and "generator" in caplog.text
    assert not output.exists()


def test_through_the_server_another_ratio_is_sampled_again(server: Server):
    workflow = api_workflow("keyframe_sequence")
    node = node_of(workflow, "InbetweenKeyframeSequence")
    inputs = workflow[node]["inputs"]
    inputs.update(frames_per_segment="2", steps=1, reinjections=0, resume=True, seed=43)
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


KEY, SHAPE = "0" * 31 + "1", (2, 4, 1, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_latents_of_every_number_format_are_kept(tmp_path, dtype):
    clips, latents = FinishedClips(tmp_path), torch.randn(SHAPE).to(dtype)
    clips.write(KEY, latents)
    assert torch.equal(clips.read(KEY, SHAPE), latents) and clips.read(KEY, SHAPE).dtype == dtype


@pytest.mark.parametrize(
    "latents",
    [
        torch.full(SHAPE, float("nan")),
        torch.zeros(SHAPE, dtype=torch.int32),
        torch.zeros(SHAPE, dtype=torch.bool),
        torch.zeros(SHAPE).to(torch.float8_e4m3fn),
        torch.zeros(2, 4),
    ],
)
def test_file_that_holds_no_latents_is_computed_again(tmp_path, caplog, latents):
    clips = FinishedClips(tmp_path)
    clips.write(KEY, latents)
    assert clips.read(KEY, SHAPE) is None and "is computed again" in caplog.text


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


def test_a_good_clip_of_another_user_is_taken_up(tmp_path, monkeypatch, caplog):
    clips = FinishedClips(tmp_path)
    clips.write(KEY, torch.ones(SHAPE))
    monkeypatch.setattr(sequence_files.os, "utime", refused)
    assert torch.equal(clips.read(KEY, SHAPE), torch.ones(SHAPE)) and not caplog.text


def test_what_cannot_be_removed_stays_and_the_others_go(tmp_path, monkeypatch):
    clips, keys_of_clips = FinishedClips(tmp_path), [f"{index:032x}" for index in range(4)]
    for age, key in enumerate(keys_of_clips):
        clips.write(key, torch.ones(SHAPE))
        os.utime(tmp_path / f"{key}.safetensors", (1e9 - age, 1e9 - age))
    unlink = Path.unlink
    monkeypatch.setattr(
        Path,
        "unlink",
        lambda path, *rest, **named: refused() if path.stem == keys_of_clips[2] else unlink(path, *rest, **named),
    )
    clips.remove_oldest(kept=1)
    assert sorted(path.stem for path in tmp_path.iterdir()) == [keys_of_clips[0], keys_of_clips[2]]


def test_a_clip_that_another_server_removes_meanwhile(tmp_path, monkeypatch):
    clips, names = FinishedClips(tmp_path), os.listdir(tmp_path)
    clips.write(KEY, torch.ones(SHAPE))
    gone = f"{'f' * 32}.safetensors"
    with monkeypatch.context() as late:
        late.setattr(sequence_files.os, "listdir", lambda _: [gone, f"{KEY}.safetensors", *names])
        clips.remove_oldest(kept=0)
    assert not list(tmp_path.iterdir())
    assert clips.read(KEY, SHAPE) is None


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
