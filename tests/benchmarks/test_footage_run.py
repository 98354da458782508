"""The quality benchmark on videos of the user's, run: its options, networks, memory, work order and results."""

import copy
import importlib.util
import json
import warnings
from argparse import Namespace
from pathlib import Path

import av
import folder_paths
import numpy as np
import pytest
import torch
from generative_inbetweening.benchmarks.common import options as options_module
from generative_inbetweening.benchmarks.common.methods import Methods
from generative_inbetweening.benchmarks.common.options import OptionError
from generative_inbetweening.benchmarks.footage import memory, networks, pictures
from generative_inbetweening.benchmarks.footage import methods as compared
from generative_inbetweening.benchmarks.footage import run as footage_run
from generative_inbetweening.benchmarks.footage.networks import (
    I3D,
    LPIPS,
    NEEDED,
    Inception,
    Networks,
    frechet_distance,
)
from generative_inbetweening.benchmarks.quality.__main__ import parse
from generative_inbetweening.common.errors import WeightsError
from generative_inbetweening.sampler.settings import PRESETS, STRATEGIES
from generative_inbetweening.tools.paths import DEMO
from helpers.videos import scene, write_video
from scipy.linalg import sqrtm

CPU = torch.device("cpu")
FEW = "cross-fade,training-free"


@pytest.fixture(autouse=True)
def host_as_it_was():
    """The run shows its files to the host, and computes without gradients."""
    folders, gradients = copy.deepcopy(folder_paths.folder_names_and_paths), torch.is_grad_enabled()
    yield
    folder_paths.folder_names_and_paths.clear()
    folder_paths.folder_names_and_paths.update(folders)
    folder_paths.filename_list_cache.clear()
    torch.set_grad_enabled(gradients)


def options(tmp_path, *further, methods=FEW):
    given = ["--footage", tmp_path / "footage", "--out", tmp_path / "out", "--methods", methods]
    size = ["--width", "72", "--height", "40", "--frames", "4", "--clips", "2", "--without-cvvdp"]
    return parse([str(each) for each in (*given, *size, *further)])


@pytest.fixture
def footage(tmp_path):
    folder = tmp_path / "footage"
    folder.mkdir()
    for name in ("a", "b"):
        write_video(folder / f"{name}.mkv", scene(12, step=4))
    return folder


@pytest.fixture
def without_plots(monkeypatch):
    """matplotlib is one of the benchmarks' packages."""
    if importlib.util.find_spec("matplotlib") is None:
        for name in ("plot_over_frames", "plot_over_seconds"):
            monkeypatch.setattr(pictures, name, lambda *_: None)


# Options.


def test_every_preset_and_strategy_is_compared():
    assert set(PRESETS) <= set(compared.COMPARED)
    inputs = [method.inputs for method in compared.SAMPLED.values()]
    found = {each.get("strategy", PRESETS[each.get("preset", "paper")]["strategy"]) for each in inputs}
    assert found == set(STRATEGIES)
    work = [compared.unet_videos(name) for name in compared.LABELS]
    assert work == sorted(work) and compared.COMPARED[-1] == "paper"


def test_options_that_do_not_go_together(tmp_path):
    own = parse(["--footage", "x"])
    assert (own.frames, own.clips, own.width, own.height, own.out.name) == (25, 16, 1024, 576, "quality_footage")
    world = parse([])
    assert world.out.name == "quality" and (world.frames, world.clips) != (own.frames, own.clips)
    with pytest.raises(OptionError, match="--size belongs to the small world"):
        parse(["--footage", "x", "--size", "96"])
    with pytest.raises(OptionError, match="--width needs --footage FOLDER"):
        parse(["--width", "512"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--width", "1001"], "--width: expected a multiple of 8, as SVD's latents need it, found 1001. Give 1000."),
        (["--frames", "2"], "--frames: expected 3 or more, found 2."),
        (["--clips", "0"], "--clips: expected 1 or more, found 0."),
        (["--seconds", "0"], "--seconds: expected a length above 0"),
        (["--methods", "ours"], "--methods: expected some of cross-fade"),
        (["--fvd", "none.pt"], "--fvd: expected clips of at least 10 frames, found --frames 4."),
        (["--lpips", "none.pth"], "--lpips: expected torchvision's AlexNet or VGG16"),
    ],
)
def test_options_are_refused_before_the_work(tmp_path, given, message):
    with pytest.raises(OptionError) as raised:
        footage_run.run(options(tmp_path, *given))
    assert message in str(raised.value)


def test_models_of_another_kind_are_refused_before_the_first_clip(footage, tmp_path):
    motion = DEMO / "demo_backward_motion.safetensors"
    with pytest.raises(WeightsError, match="model_name: Expected"):
        footage_run.run(options(tmp_path, "--checkpoint", motion))
    with pytest.raises(WeightsError, match="backward_motion: Expected"):
        checkpoint = DEMO / "demo_svd.safetensors"
        other = options(tmp_path, "--out", tmp_path / "other", "--backward-motion", checkpoint, methods="balanced")
        footage_run.run(other)
    assert not (tmp_path / "other" / "rows").exists()


def test_the_command_names_options_in_place_of_inputs(monkeypatch, capsys):
    def stopped(_):
        raise WeightsError("model_name: Expected Stable Video Diffusion, found a LoRA.")

    monkeypatch.setattr(options_module, "check_installed", lambda *_: None)
    assert options_module.exit_status("quality", stopped, Namespace(without_cvvdp=True)) == 1
    assert capsys.readouterr().err == "quality: --checkpoint: Expected Stable Video Diffusion, found a LoRA.\n"


# Networks.


def test_frechet_distance_is_the_formula():
    rng = np.random.default_rng(0)
    for samples, others in ((200, 300), (6, 9)):
        first, second = (
            rng.normal(size=(samples, 12)),
            1 + 2 * rng.normal(size=(others, 12)) @ rng.normal(size=(12, 12)),
        )
        means, covariances = zip(*((each.mean(0), np.cov(each, rowvar=False)) for each in (first, second)))
        # The root of a singular matrix is found only roughly.
        root = sqrtm(covariances[0] @ covariances[1] + 1e-12 * np.eye(12)).real
        expected = np.square(means[0] - means[1]).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
        assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-4)
        assert frechet_distance(first, first) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(first, first + 3) == pytest.approx(9 * 12)
    assert np.isnan(frechet_distance(first[:1], second))


class SmallI3D(torch.nn.Module):
    """The interface of the field's I3D: a video `[1, 3, frames, h, w]` to features."""

    def forward(self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False):
        assert not rescale and not resize and return_features and x.shape[3:] == (224, 224)
        return torch.stack([x.mean(dim=[2, 3, 4]), x.std(dim=[2, 3, 4])], 1).flatten(1)


@pytest.fixture
def i3d(tmp_path):
    return save_script(SmallI3D(), tmp_path / "i3d_torchscript.pt")


def save_script(network, path):
    with warnings.catch_warnings():
        # The field's file is TorchScript, which newer releases of torch advise against.
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(network), str(path))
    return path


def test_fvd_sees_the_whole_video(i3d, tmp_path):
    features = I3D(i3d, CPU)(torch.full((12, 3, 40, 72), 0.75))
    assert features.shape == (1, 6) and features[0, 0] == pytest.approx(0.5)
    bad = save_script(torch.nn.Identity(), tmp_path / "other.pt")
    with pytest.raises(OptionError, match="--fvd: expected I3D as TorchScript.*found a network that does not take"):
        I3D(bad, CPU)


def test_lpips_takes_torchvisions_files(tmp_path):
    pytest.importorskip("lpips")
    channels = ((64, 3, 11), (192, 64, 5), (384, 192, 3), (256, 384, 3), (256, 256, 3))
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for layer, (out, into, side) in zip((0, 3, 6, 8, 10), channels):
        weights[f"features.{layer}.weight"] = 0.05 * torch.randn(out, into, side, side, generator=generator)
        weights[f"features.{layer}.bias"] = torch.zeros(out)
    path = tmp_path / "alexnet.pth"
    torch.save(weights, path)
    measure = LPIPS(path, CPU)
    truth = torch.rand(3, 3, 64, 64, generator=generator)
    assert measure.kind == "alex" and measure(truth, truth) == pytest.approx(0)
    near, far = (measure((truth + change).clamp(0, 1), truth) for change in (0.02, 0.4))
    assert near.shape == (3,) and (near > 0).all() and (near < far).all()
    del weights["features.10.bias"]
    torch.save(weights, path)
    with pytest.raises(OptionError, match="found an incomplete alex"):
        LPIPS(path, CPU)


def test_fid_takes_the_fields_file(tmp_path, monkeypatch):
    inception = pytest.importorskip("pytorch_fid.inception")
    path = tmp_path / "pt_inception.pth"
    made = {}

    def collect(network, *_):
        made.update(network.state_dict())

    with monkeypatch.context() as patched:
        patched.setattr(inception, "load_state_dict_from_url", lambda *_, **__: {})
        patched.setattr(torch.nn.Module, "load_state_dict", collect)
        inception.fid_inception_v3()
    torch.save(made, path)
    features = Inception(path, CPU)(torch.rand(2, 3, 40, 72))
    assert features.shape == (2, 2048) and torch.isfinite(features).all()
    torch.save({"fc.weight": torch.zeros(1)}, path)
    with pytest.raises(OptionError, match="--fid: expected the Inception network.*found weights of another network"):
        Inception(path, CPU)


@pytest.mark.parametrize("name", NEEDED)
def test_bad_network_files_are_told_by_their_option(name, tmp_path):
    for content, found in ((None, "nothing"), (b"text", "no ")):
        path = tmp_path / "network.pth"
        if content:
            path.write_bytes(content)
        with pytest.raises(OptionError) as raised:
            Networks({name: path}, 12)
        message = str(raised.value)
        assert message.startswith(f"--{name}: expected {NEEDED[name].file}") and f"found {found}" in message


def test_what_is_missing_is_said_with_where_it_is():
    sentences = Networks(dict.fromkeys(NEEDED), 25).missing()
    assert [sentence.partition(" (")[0] for sentence in sentences] == ["No LPIPS", "No FID", "No FVD"]
    assert all(f"--{name} FILE" in sentence for name, sentence in zip(NEEDED, sentences))


# Memory and disk.


def test_a_size_that_does_not_fit_is_said_with_one_that_does(monkeypatch, tmp_path, demo_files):
    with Methods(*demo_files, {}, compared.SAMPLED) as methods:
        needed = memory.need(methods, 8, 256, 128)
        assert needed.total > needed.weights > methods.base.model_size()
        with monkeypatch.context() as patched:
            patched.setattr(memory, "available", lambda _: needed.total + 1)
            with pytest.raises(OptionError, match="found that 8 frames at 512x256.*--width 256 --height 128 fits"):
                memory.check_memory(methods, 8, 512, 256)
        monkeypatch.setattr(memory, "need", lambda *_: needed)
        assert "8 frames at 256x128 take about" in memory.check_memory(methods, 8, 256, 128)
        monkeypatch.setattr(memory, "available", lambda _: 1e6)
        with pytest.raises(OptionError, match="no size fits: give fewer --frames"):
            memory.check_memory(methods, 8, 256, 128)
    with pytest.raises(OptionError, match="--out: expected room for 10"):
        memory.check_disk(tmp_path, 10**9, 25, 1024, 576)


# The run.


def rows(out: Path) -> dict[str, dict]:
    found = sorted((out / "rows" / "footage").rglob("*.json"))
    return {f"{path.parent.name}/{path.stem}": json.loads(path.read_text()) for path in found}


@pytest.mark.slow
@pytest.mark.usefixtures("footage", "without_plots")
def test_a_run_has_a_table_pictures_and_goes_on(tmp_path, capsys, i3d, monkeypatch):
    out = tmp_path / "out"
    footage_run.run(options(tmp_path))
    first, printed = rows(out), capsys.readouterr().out
    assert len(first) == 2 * 4 and "2 clips of 2 videos." in printed and "No LPIPS" in printed
    assert "/2 b-" in printed and "left" in printed
    made = first[next(name for name in first if name.startswith("training-free/"))]
    assert made["unet_videos"] == compared.unet_videos("training-free")
    assert made["seconds"] > 0 and made["peak_bytes"] > 2**20 and len(made["ghosting"]) == 4
    result = json.loads((out / "quality.json").read_text())
    assert result["clips_done"] == 2
    assert result["methods"]["cross-fade"]["ghosting"]["mean"] == pytest.approx(1, abs=0.02)
    text = (out / "quality.md").read_text()
    assert "### 2 of 2 clips" in text and "| cross-fade | 2 |" in text and text in printed
    (video, _) = sorted((out / "side_by_side").iterdir())
    with av.open(str(video)) as container:
        # The keyframes stand for a while.
        assert len(list(container.decode(video=0))) > 4
    assert len(list((out / "contact_sheets").glob("*.png"))) == 2

    # What is there stays, what is lost is made again, and a network that comes later measures what is there.
    lost = next((out / "rows" / "footage" / "training-free").glob("a-*.json"))
    lost.rename(lost.with_suffix(".half"))
    kept = [path for folder in ("rows", "frames") for path in (out / folder).rglob("*.*") if path.stem != lost.stem]
    times = {path: path.stat().st_mtime_ns for path in kept}
    monkeypatch.setattr(networks, "FEWEST_FVD_FRAMES", 4)
    footage_run.run(options(tmp_path, "--fvd", i3d))
    assert {path: path.stat().st_mtime_ns for path in kept} == times
    assert {name: row["psnr"] for name, row in rows(out).items()} == {name: row["psnr"] for name, row in first.items()}
    result = json.loads((out / "quality.json").read_text())
    assert result["methods"]["cross-fade"]["fvd"] > 0 and "| FVD ↓ |" in (out / "quality.md").read_text()
    with pytest.raises(OptionError, match="--out: .* holds results of another stride"):
        footage_run.run(options(tmp_path, "--stride", "2"))


@pytest.mark.usefixtures("footage")
def test_running_out_of_memory_is_a_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Methods, "run", full)
    monkeypatch.setattr(footage_run, "check_memory", lambda *_: "")
    with pytest.raises(OptionError, match="--width, --height: memory ran out at 72x40"):
        footage_run.run(options(tmp_path))


def test_time_left_goes_by_what_was_measured():
    left = footage_run._TimeLeft()
    assert left.of("paper") == 0
    left.add("fast", 10.0)
    left.add("fast", 20.0)
    assert left.of("fast") == 15
    share = compared.unet_videos("paper") / compared.unet_videos("fast")
    assert left.of("paper") == pytest.approx(15 * share)
    assert [footage_run.duration(each) for each in (5, 600, 12000)] == ["5 s", "10 min", "3 h 20 min"]


def test_side_by_side_is_a_gif_where_nothing_encodes_mp4(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "_ENCODERS", {"no such encoder": {}})
    videos = {name: torch.rand(4, 3, 40, 72) for name in ("the true frames", "a caption that is far too long for it")}
    path = pictures.side_by_side(tmp_path / "clip", videos, 24.0)
    assert path.suffix == ".gif" and path.stat().st_size > 0
