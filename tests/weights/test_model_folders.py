"""Models as they really land on a disk (linked, flat, in a folder called unet, one file) are found, at little cost."""

import os
import shutil
import time

import folder_paths
import pytest
import torch
from generative_inbetweening.nodes import InbetweenConvertBackwardMotion, InbetweenLoadBackwardMotion, InbetweenLoadSVD
from generative_inbetweening.weights.files import read_metadata, read_tensors
from generative_inbetweening.weights.keys import unet as unet_keys
from helpers.model_folders import REFERENCE, choices, folder, use_empty_folders
from safetensors.torch import save_file

BASE, TUNED = REFERENCE / "tiny-svd", REFERENCE / "tiny-svd-reverse-motion"
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def models(tmp_path, monkeypatch):
    return use_empty_folders(tmp_path, monkeypatch)


def offered() -> set[str]:
    return set(choices(InbetweenConvertBackwardMotion, "fine_tuned"))


def convert(base: str, fine_tuned: str, name: str = "new", overwrite: bool = False) -> str:
    return InbetweenConvertBackwardMotion.execute(base, fine_tuned, name, "fp16", overwrite).args[0]


def as_unet_folder(models):
    shutil.copytree(TUNED / "unet", models / "diffusers" / "unet")
    return "unet/"


def as_two_flat_files(models):
    shutil.copytree(TUNED / "unet", models / "diffusers" / "from" / "drive")
    return "from/drive/"


def as_weights_alone(models):
    (models / "diffusers" / "anything").mkdir()
    shutil.copy(TUNED / "unet" / WEIGHTS, models / "diffusers" / "anything" / WEIGHTS.replace(".safe", ".fp16.safe"))
    return "anything/"


def as_folder_that_holds_unet(models):
    shutil.copytree(TUNED, models / "diffusers" / "svd_reverse_motion_with_attnflip")
    return "svd_reverse_motion_with_attnflip/"


def as_pipeline(models):
    shutil.copytree(REFERENCE / folder("-xt"), models / "diffusers" / "pipeline")
    shutil.rmtree(models / "diffusers" / "pipeline" / "unet")
    shutil.copytree(TUNED / "unet", models / "diffusers" / "pipeline" / "unet")
    return "pipeline/"


def as_linked_folder(models):
    (models / "diffusers" / "linked").symlink_to(TUNED, target_is_directory=True)
    return "linked/"


def as_folder_with_a_linked_part(models):
    (models / "diffusers" / "parts").mkdir()
    (models / "diffusers" / "parts" / "unet").symlink_to(TUNED / "unet", target_is_directory=True)
    return "parts/"


def as_file_in(kind: str, prefix: str, comfy: bool):
    def put(models):
        tensors = read_tensors(TUNED / "unet" / WEIGHTS)
        names = unet_keys.diffusers_to_comfy(tensors) if comfy else {key: key for key in tensors}
        save_file({prefix + names[key]: tensor for key, tensor in tensors.items()}, models / kind / "one.safetensors")
        return "one.safetensors"

    put.__name__ = f"as_file_in_{kind}"
    return put


LAYOUTS = [
    as_unet_folder,
    as_two_flat_files,
    as_weights_alone,
    as_folder_that_holds_unet,
    as_pipeline,
    as_linked_folder,
    as_folder_with_a_linked_part,
    as_file_in("checkpoints", "model.diffusion_model.", True),
    as_file_in("diffusion_models", "diffusion_model.", True),
    as_file_in("unet", "", False),
]


@pytest.mark.parametrize("put", LAYOUTS, ids=lambda put: put.__name__)
def test_authors_weights_are_offered_and_converted_wherever_they_lie(models, put):
    (models / "diffusers" / "svd").symlink_to(BASE, target_is_directory=True)
    name = put(models)
    assert name in offered()
    convert("svd/", name)
    tensors = read_tensors(models / "backward_motion" / "new.safetensors")
    assert len(tensors) == 32 and read_metadata(models / "backward_motion" / "new.safetensors")["base"] == "svd"


def test_linked_pipeline_is_listed_and_loads(models):
    link = models / "diffusers" / "linked"
    link.symlink_to(REFERENCE / folder("-xt"), target_is_directory=True)
    assert choices(InbetweenLoadSVD, "model_name") == ["linked/"]
    assert InbetweenLoadSVD.execute("linked/").args[0] is not None


def test_lists_offer_only_what_fits(models):
    diffusers = models / "diffusers"
    shutil.copytree(REFERENCE / folder("-xt"), diffusers / "svd")
    shutil.copytree(diffusers / "svd" / "vae", diffusers / "vae_alone")
    shutil.copytree(diffusers / "svd", diffusers / "sd15")
    config = diffusers / "sd15" / "unet" / "config.json"
    config.write_text(config.read_text().replace("UNetSpatioTemporalConditionModel", "UNet2DConditionModel"))
    (diffusers / "empty" / "unet").mkdir(parents=True)
    shutil.copytree(BASE / "unet", diffusers / "unet")
    assert choices(InbetweenLoadSVD, "model_name") == ["svd/"]
    assert offered() == {"svd/", "unet/"}


def test_loops_of_links_end(models):
    diffusers = models / "diffusers"
    for number in range(12):
        (diffusers / f"{number}").mkdir()
        for other in range(12):
            (diffusers / f"{number}" / f"to_{other}").symlink_to(diffusers / f"{other}", target_is_directory=True)
    (diffusers / "itself").symlink_to(diffusers / "itself")
    (diffusers / "up").symlink_to(models, target_is_directory=True)
    shutil.copytree(BASE, diffusers / "svd")
    begin = time.perf_counter()
    names = offered()
    assert time.perf_counter() - begin < 5
    assert "svd/" in names and len(names) < 30


@pytest.mark.parametrize("name", ["../outside/", "a/../../outside/", "/outside/", "..\\outside/", "svd/../../outside/"])
def test_no_name_leads_out_of_the_hosts_folders(models, name):
    shutil.copytree(BASE, models / "outside")
    name = name.replace("/outside/", f"{models}/outside/") if name.startswith("/") else name
    for run in (lambda: InbetweenLoadSVD.execute(name), lambda: convert(name, name)):
        with pytest.raises(ValueError, match="(model_name|base): Expected the folder .* found none"):
            run()


def test_lists_read_no_folder_twice(models, monkeypatch):
    many = models / "diffusers" / "collection"
    many.mkdir()
    for number in range(300):
        (many / f"{number}").touch()
    shutil.copytree(BASE, many / "svd")
    scanned, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (scanned.append(str(path)), scandir(path))[1])

    def all_lists():
        scanned.clear()
        choices(InbetweenLoadSVD, "model_name")
        for name in ("base", "fine_tuned"):
            assert "collection/svd/" in choices(InbetweenConvertBackwardMotion, name)
        return scanned

    first = [path for path in all_lists() if "diffusers" in path]
    assert len(first) == len(set(first)) and str(many) in first
    assert not all_lists()
    with folder_paths.cache_helper:
        all_lists()
        stats, stat = [], os.stat
        monkeypatch.setattr(os, "stat", lambda *given, **more: (stats.append(given), stat(*given, **more))[1])
        choices(InbetweenConvertBackwardMotion, "base")
        assert not stats
    shutil.copytree(BASE, many / "new")
    assert "collection/new/" in offered()
    shutil.rmtree(many / "new")
    assert "collection/new/" not in offered()


def fingerprint(node, **inputs):
    return node.fingerprint_inputs(**inputs)


def test_file_that_was_replaced_on_disk_is_read_again(models):
    shutil.copytree(BASE, models / "diffusers" / "svd")
    shutil.copytree(REFERENCE / folder("-xt"), models / "diffusers" / "xt")
    shutil.copytree(TUNED, models / "diffusers" / "tuned")
    convert("svd/", "tuned/")
    asked = (
        (InbetweenLoadSVD, {"model_name": "xt/"}),
        (InbetweenLoadBackwardMotion, {"backward_motion": "new.safetensors", "strength": 1.0}),
        (InbetweenConvertBackwardMotion, {"base": "svd/", "fine_tuned": "tuned/", "file_name": "new"}),
    )
    before = [fingerprint(node, **inputs) for node, inputs in asked]
    assert before == [fingerprint(node, **inputs) for node, inputs in asked]
    for path in (
        models / "diffusers" / "xt" / "image_encoder" / "model.safetensors",
        models / "diffusers" / "tuned" / "unet" / WEIGHTS,
    ):
        tensors = read_tensors(path)
        save_file({key: tensor + 1 for key, tensor in tensors.items()}, path)
    save_file(
        {key: tensor * 2 for key, tensor in read_tensors(models / "backward_motion" / "new.safetensors").items()},
        models / "backward_motion" / "new.safetensors",
    )
    after = [fingerprint(node, **inputs) for node, inputs in asked]
    assert all(old != new for old, new in zip(before, after))


@pytest.mark.parametrize("replace", [os.replace, shutil.copy2])
def test_file_of_the_same_size_and_time_in_its_place_is_another(models, tmp_path, replace):
    path, new = models / "backward_motion" / "new.safetensors", tmp_path / "new"
    path.parent.mkdir(parents=True, exist_ok=True)
    states = []
    for content in (b"a", b"b"):
        new.write_bytes(content * 99)
        os.utime(new, (1000, 1000))
        replace(new, path)
        # Some disks count time in steps of 4 ms.
        time.sleep(0.02)
        states.append(fingerprint(InbetweenLoadBackwardMotion, backward_motion=path.name, strength=1.0))
        assert states[-1] is not None
    assert states[0] != states[1]


def test_conversion_runs_again_when_its_file_is_gone_and_not_before(models):
    shutil.copytree(BASE, models / "diffusers" / "svd")
    shutil.copytree(TUNED, models / "diffusers" / "tuned")
    inputs = {"base": "svd/", "fine_tuned": "tuned/", "file_name": "new"}
    first = fingerprint(InbetweenConvertBackwardMotion, **inputs)
    convert("svd/", "tuned/")
    assert fingerprint(InbetweenConvertBackwardMotion, **inputs) == first
    (models / "backward_motion" / "new.safetensors").unlink()
    second = fingerprint(InbetweenConvertBackwardMotion, **inputs)
    assert second != first
    convert("svd/", "tuned/")
    assert fingerprint(InbetweenConvertBackwardMotion, **inputs) == second


@pytest.mark.parametrize("name", [None, 3, "", "/", "nothing.safetensors", "nothing/", "\ud800", "a\0b", "x" * 10000])
def test_fingerprints_never_raise(models, name):
    fingerprint(InbetweenLoadSVD, model_name=name)
    fingerprint(InbetweenLoadBackwardMotion, backward_motion=name)
    fingerprint(InbetweenConvertBackwardMotion, base=name, fine_tuned=name, file_name=name)
    fingerprint(InbetweenLoadSVD)


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="needs Linux's list of mapped files")
def test_nothing_stays_mapped_or_open(models, tmp_path):
    shutil.copytree(BASE, models / "diffusers" / "svd")
    shutil.copytree(REFERENCE / folder("-xt"), models / "diffusers" / "xt")
    shutil.copytree(TUNED, models / "diffusers" / "tuned")
    convert("svd/", "tuned/")
    loaded = InbetweenLoadSVD.execute("xt/").args
    model = InbetweenLoadBackwardMotion.execute(loaded[0], "new.safetensors", 1.0).args[0]
    with open("/proc/self/maps") as file:
        assert str(tmp_path) not in file.read()
    assert not [
        name for name in os.listdir("/proc/self/fd") if str(tmp_path) in os.path.realpath(f"/proc/self/fd/{name}")
    ]
    assert torch.equal(loaded[0].model.diffusion_model.out[2].weight, model.model.diffusion_model.out[2].weight)
