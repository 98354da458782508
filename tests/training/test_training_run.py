"""The fine-tuning command on real small videos: its result, resuming, and stopping well."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from generative_inbetweening.common.atomic_write import write_json
from generative_inbetweening.training import cache as module_of_the_cache
from generative_inbetweening.training.cache import ClipCache
from generative_inbetweening.training.data import ClipShape
from generative_inbetweening.training.fine_tune import main
from generative_inbetweening.training.log import RunLog
from generative_inbetweening.training.memory import step_need
from generative_inbetweening.training.settings import Settings, read_configuration
from generative_inbetweening.weights.backward_motion import check_fits, read_backward_motion
from generative_inbetweening.weights.keys.unet import diffusers_to_comfy
from helpers.tiny_svd import FRAMES, SIZE, save_frame_folder, save_tiny_svd, save_video, tiny_unet
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def svd(tmp_path_factory) -> Path:
    return save_tiny_svd(tmp_path_factory.mktemp("models") / "tiny-svd")


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    save_video(folder / "a.mp4", 8, seed=1)
    save_video(folder / "below" / "b.mp4", 5, seed=2)
    save_frame_folder(folder / "c", 4, seed=3)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def fresh_accelerate():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def options(svd, videos, cache):
    def make(folder: Path, **changed: object) -> list[str]:
        chosen = {
            "base": svd,
            "data": videos,
            "cache": cache,
            "out": folder,
            "frames": FRAMES,
            "stride": 1,
            "width": SIZE,
            "height": SIZE,
            "steps": 6,
            "batch-size": 2,
            **changed,
        }
        return ["--cpu", *(f"--{name}={value}" for name, value in chosen.items())]

    return make


def log_entries(out: Path, event: str = "step") -> list[dict]:
    lines = (out / "log.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["event"] == event]


def same_tensors(first: Path, second: Path) -> bool:
    one, other = load_file(first), load_file(second)
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def checkpoint(out: Path, step: int) -> Path:
    return out / f"checkpoint-{step:08d}.safetensors"


@pytest.fixture(scope="module")
def straight(svd, videos, cache, tmp_path_factory) -> Path:
    """A run of 6 steps without a stop."""
    out = tmp_path_factory.mktemp("straight") / "out"
    arguments = {
        "base": svd,
        "data": videos,
        "held-out": videos / "below",
        "cache": cache,
        "out": out,
        "frames": FRAMES,
        "stride": 1,
        "width": SIZE,
        "height": SIZE,
        "steps": 6,
        "batch-size": 2,
        "source": "moving squares",
        "license": "CC0-1.0",
        "held-out-every": 6,
    }
    assert main(["--cpu", *(f"--{name}={value}" for name, value in arguments.items())]) == 0
    return out


def test_the_result_is_a_backward_motion_file_of_the_base(straight):
    differences, metadata = read_backward_motion(straight / "backward_motion.safetensors")
    unet = tiny_unet()
    names = diffusers_to_comfy(unet.state_dict())
    trained = {
        f"diffusion_model.{names[key]}": value.shape
        for key, value in unet.state_dict().items()
        if ".temporal_transformer_blocks.0.attn1." in key and key.endswith(("to_v.weight", "to_out.0.weight"))
    }
    assert len(trained) == 32
    check_fits(differences, trained, "backward_motion.safetensors")
    assert metadata == {
        "format": "backward-motion",
        "version": "1",
        "base": "tiny-svd",
        "frames": str(FRAMES),
        "source": "moving squares",
        "license": "CC0-1.0",
        "temporal_attention": "rotated",
    }
    assert all(0 < value.abs().max() < 6 * 1.1e-4 for value in differences.values())


def test_the_log_tells_every_step_and_the_held_out_loss(straight):
    steps = log_entries(straight)
    assert [entry["step"] for entry in steps] == [1, 2, 3, 4, 5, 6]
    assert all(entry["loss"] > 0 and entry["lr"] == 1e-4 and entry["gradient_norm"] > 0 for entry in steps)
    before, after = log_entries(straight, "held-out")
    assert before["base_rotated"]["mean"] > 0 and before["base_own"]["mean"] > 0
    assert len(before["base_rotated"]["clips"]) == len(after["loss"]["clips"]) == 1
    assert after["step"] == 6 and after["loss"]["mean"] != before["base_rotated"]["mean"]


def test_resumed_is_bit_equal_to_straight(straight, options, tmp_path):
    assert main(options(tmp_path, steps=3)) == 0
    assert main([*options(tmp_path), "--resume", "--overwrite"]) == 0
    assert same_tensors(checkpoint(straight, 6), checkpoint(tmp_path, 6))
    assert same_tensors(straight / "backward_motion.safetensors", tmp_path / "backward_motion.safetensors")
    assert [entry["loss"] for entry in log_entries(tmp_path)] == [entry["loss"] for entry in log_entries(straight)]


def test_ctrl_c_saves_and_resume_finishes_the_same_run(straight, options, tmp_path):
    def interrupt_after_two_steps() -> None:
        while not (tmp_path / "log.jsonl").exists() or len(log_entries(tmp_path)) < 2:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=interrupt_after_two_steps, daemon=True)
    watcher.start()
    assert main(options(tmp_path)) == 130
    watcher.join()
    stopped = len(log_entries(tmp_path))
    assert 2 <= stopped < 6 and checkpoint(tmp_path, stopped).exists()
    assert not (tmp_path / "backward_motion.safetensors").exists()
    assert main([*options(tmp_path), "--resume"]) == 0
    assert same_tensors(checkpoint(straight, 6), checkpoint(tmp_path, 6))


@pytest.mark.slow
def test_a_full_disk_keeps_the_previous_checkpoint_and_the_run(straight, options, tmp_path, caplog):
    resource = pytest.importorskip("resource", reason="no limit on file sizes here")
    assert main(options(tmp_path, steps=3)) == 0
    before = checkpoint(tmp_path, 3).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        status = main([*options(tmp_path, **{"save-every": 2}), "--resume", "--overwrite"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert status == 0
    assert "no checkpoint at step 4" in caplog.text and "earlier ones are kept" in caplog.text
    assert checkpoint(tmp_path, 3).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if "checkpoint" in path.name] == [checkpoint(tmp_path, 3).name]
    # The result is smaller and still fitted: the training is not lost with its checkpoint.
    assert same_tensors(straight / "backward_motion.safetensors", tmp_path / "backward_motion.safetensors")


def test_a_full_disk_costs_lines_of_the_log_and_not_the_run(tmp_path, caplog):
    resource = pytest.importorskip("resource", reason="no limit on file sizes here")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "log.jsonl"
    with RunLog(path, 0) as log:
        log.write(event="step", step=1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, hard))
        try:
            log.write(event="step", step=2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        log.write(event="step", step=3)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 3]
    assert "log.jsonl: a line is left out, the run goes on" in caplog.text


def test_an_out_that_cannot_be_written_is_told_before_anything_is_done(options, tmp_path, caplog):
    (tmp_path / "file").touch()
    (tmp_path / "taken" / "log.jsonl").mkdir(parents=True)
    for out, reason in ((tmp_path / "file" / "below", "Not a directory"), (tmp_path / "taken", "Is a directory")):
        assert main(options(out)) == 1
        assert f"--out: cannot write into {out}: {reason}" in caplog.text


def test_a_source_of_many_clips_is_looked_at_once(tmp_path, monkeypatch):
    save_frame_folder(tmp_path / "source", 4, seed=3)
    cache = ClipCache(tmp_path / "cache", ClipShape(2, 1, SIZE, SIZE), tmp_path)
    key = cache.key(tmp_path / "source")
    cache.folder.mkdir()
    for number in range(50):
        (cache.folder / f"{key}-{number:05d}.safetensors").touch()
    write_json(cache.folder / f"{key}.json", {"clips": 50})
    looked, identity = [], module_of_the_cache.file_identity
    monkeypatch.setattr(module_of_the_cache, "file_identity", lambda path: looked.append(path) or identity(path))
    assert len(cache.clips(tmp_path / "source")) == 50
    assert len(looked) == 4


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(options, tmp_path, caplog):
    assert main(options(tmp_path, lr=1e30, **{"save-every": 1})) == 1
    assert "the loss became nan at step 2" in caplog.text
    assert str(checkpoint(tmp_path, 1)) in caplog.text
    assert all(torch.isfinite(value).all() for value in load_file(checkpoint(tmp_path, 1)).values())
    assert not checkpoint(tmp_path, 2).exists() and not (tmp_path / "backward_motion.safetensors").exists()


def test_old_checkpoints_are_removed_only_when_newer_ones_are_there(options, tmp_path):
    assert main(options(tmp_path, steps=3, keep=2, **{"save-every": 1})) == 0
    kept = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    assert kept == [checkpoint(tmp_path, step).name for step in (2, 3)]


def test_clips_are_encoded_once(options, tmp_path, cache, svd):
    encoded = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert main(options(tmp_path, steps=1, maps="own")) == 0
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == encoded
    assert read_backward_motion(tmp_path / "backward_motion.safetensors")[1]["temporal_attention"] == "own"


@pytest.mark.slow
def test_half_precision_accumulation_and_recomputation_run_together(options, tmp_path):
    changed = {"accumulation": 2, "mixed-precision": "bf16", "lr-schedule": "cosine", "steps": 2, "batch-size": 1}
    assert main([*options(tmp_path, **changed), "--gradient-checkpointing"]) == 0
    first, second = log_entries(tmp_path)
    assert first["lr"] == 1e-4 and second["lr"] == pytest.approx(0.5e-4)
    assert {value.dtype for value in load_file(checkpoint(tmp_path, 2)).values()} == {torch.float32}


@pytest.mark.slow
def test_two_processes_see_what_one_with_two_passes_sees(options, tmp_path):
    """Gradients are averaged over devices: 2 processes x 1 pass against 1 process x 2 passes, from another folder."""
    # As many threads as the launched processes have: sums are then rounded alike.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main(options(tmp_path / "one", steps=2, accumulation=2)) == 0
    finally:
        torch.set_num_threads(threads)
    launched = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node=2",
            "--standalone",
            "-m",
            "generative_inbetweening.training.fine_tune",
            *options(tmp_path / "two", steps=2),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert launched.returncode == 0, launched.stderr
    assert log_entries(tmp_path / "two", "start")[0]["processes"] == 2
    for one, two in zip(log_entries(tmp_path / "one"), log_entries(tmp_path / "two"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert two["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-3)
    one, two = (load_file(checkpoint(tmp_path / name, 2)) for name in ("one", "two"))
    for key, value in one.items():
        # Adam's first steps turn the sign of a gradient of rounding size into a step of the learning rate.
        assert (two[key] - value).abs().max() <= (2e-4 if "trained" in key else 0.02 * value.abs().max()), key


@pytest.mark.slow
def test_the_memory_estimate_counts_what_a_real_step_keeps():
    """The count without data against the same count on real tensors."""
    unet = {**tiny_unet().config, "layers_per_block": 1}
    vae = {"block_out_channels": (32, 32), "down_block_types": ("DownEncoderBlock2D",) * 2}
    settings = Settings(frames=FRAMES, width=64, height=64, batch_size=2, gradient_checkpointing=True)
    estimated, real = (step_need(settings, unet, vae, device).step for device in ("meta", "cpu"))
    assert estimated == pytest.approx(real, rel=0.05)


def test_the_authors_setting_is_the_papers():
    settings = Settings(**read_configuration(ROOT / "training" / "configs" / "svd_authors.json"))
    assert (settings.width, settings.height, settings.frames, settings.stride) == (1024, 576, 14, 2)
    assert ClipShape(settings.frames, settings.stride, settings.width, settings.height).span == 27
    assert (settings.lr, settings.sigma_mean, settings.sigma_std, settings.noise_augmentation) == (1e-4, 0.7, 1.6, 0.02)
    assert (settings.fps - 1, settings.motion_bucket, settings.maps) == (6, 127, "rotated")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"data": "{empty}"}, "--data: {empty} holds no video"),
        ({"data": "{empty}/nowhere"}, "nowhere is no folder"),
        ({"frames": 9}, "none of the 3 videos gives a clip: 3 are shorter than 9 frames"),
        ({"base": "{empty}"}, "--base: expected a diffusers folder of Stable Video Diffusion"),
        ({"base": "{not_svd}"}, "is no Stable Video Diffusion model: unet/config.json has _class_name"),
        ({"width": 30}, "--width: expected a multiple of 8, found 30"),
        ({"frames": 1}, "--frames: expected at least 2, found 1"),
        ({"lr": 0}, "--lr: expected a number above 0"),
        ({"out": "{occupied}"}, "holds checkpoints of an earlier run"),
        ({"config": "{config}"}, "'learning_rate' is no setting"),
    ],
)
def test_bad_input_is_one_clear_error(changed, expected, options, tmp_path, straight, caplog):
    names = {
        "empty": tmp_path / "empty",
        "not_svd": tmp_path / "not_svd",
        "occupied": tmp_path / "occupied",
        "config": tmp_path / "config.json",
    }
    names["empty"].mkdir()
    (names["not_svd"] / "unet").mkdir(parents=True)
    (names["not_svd"] / "unet" / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    names["occupied"].mkdir()
    checkpoint(names["occupied"], 6).write_bytes(checkpoint(straight, 6).read_bytes())
    names["config"].write_text('{"learning_rate": 1}')
    changed = {key: str(value).format(**names) for key, value in changed.items()}
    assert main(options(tmp_path / "out", **changed)) == 1
    assert expected.format(**names) in caplog.text


def test_broken_and_short_videos_are_counted_and_left_out(options, videos, tmp_path, caplog):
    data = tmp_path / "data"
    save_video(data / "good.mp4", 4)
    save_video(data / "short.mp4", 3)
    (data / "broken.mp4").write_bytes(b"no video at all")
    whole = save_video(data / "cut.mp4", 8).read_bytes()
    (data / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    (data / "frames").mkdir()
    (data / "frames" / "1.png").write_bytes(b"no image")
    with caplog.at_level("INFO"):
        assert main(options(tmp_path / "out", data=data, steps=1)) == 0
    assert "1 clips from 1 of 5 videos; skipped: 1 too short, 3 unreadable" in caplog.text


@pytest.mark.slow
def test_resume_refuses_other_models_and_other_files(straight, options, svd, tmp_path, caplog):
    other = save_tiny_svd(tmp_path / "other", seed=7)
    resume = f"--resume={checkpoint(straight, 6)}"
    assert main([*options(tmp_path / "a", base=other), resume]) == 1
    assert "was trained from another base model" in caplog.text
    wider = save_tiny_svd(tmp_path / "wider", width=64)
    assert main([*options(tmp_path / "b", base=wider), resume]) == 1
    assert caplog.text.count("was trained from another base model") == 2
    assert main([*options(tmp_path / "c", maps="own"), resume]) == 1
    assert "was trained with --maps rotated, not own" in caplog.text
    assert main([*options(tmp_path / "d"), f"--resume={straight / 'backward_motion.safetensors'}"]) == 1
    assert "is no checkpoint of this command" in caplog.text
    cut = tmp_path / "checkpoint-00000006.safetensors"
    cut.write_bytes(checkpoint(straight, 6).read_bytes()[:1000])
    assert main([*options(tmp_path / "e"), f"--resume={cut}"]) == 1
    assert "truncated" in caplog.text
    assert main([*options(tmp_path / "f"), "--resume"]) == 1
    assert "holds no checkpoint" in caplog.text


def test_an_existing_result_is_kept(options, tmp_path, caplog):
    tmp_path.joinpath("backward_motion.safetensors").write_bytes(b"precious")
    assert main(options(tmp_path)) == 1
    assert "backward_motion.safetensors exists" in caplog.text
    assert (tmp_path / "backward_motion.safetensors").read_bytes() == b"precious"


def test_a_base_without_its_weights_is_refused(svd, options, tmp_path, caplog):
    base = save_tiny_svd(tmp_path / "base")
    weights = base / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({"stranger": torch.zeros(1)}, weights)
    assert main(options(tmp_path / "out", base=base)) == 1
    assert "the weights of unet" in caplog.text and "do not fit its configuration" in caplog.text
    weights.unlink()
    assert main(options(tmp_path / "out", base=base)) == 1
    assert "holds no .safetensors file" in caplog.text
