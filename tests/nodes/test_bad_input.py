"""Bad input gets one clear sentence that names the input, what was expected, and what to do; nothing is lost."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from generative_inbetweening.common.errors import WeightsError
from generative_inbetweening.nodes import (
    InbetweenConvertBackwardMotion,
    InbetweenEncodeKeyframes,
    InbetweenLoadBackwardMotion,
    InbetweenLoadSVD,
    InbetweenReinjectionSampler,
)
from generative_inbetweening.weights.backward_motion import read_backward_motion, write_backward_motion
from helpers.model_folders import REFERENCE, backward_motion_folder
from helpers.small_model import encode, pictures, sample
from safetensors.torch import load_file, save_file

GOOD = "tiny_backward_motion.safetensors"


@pytest.fixture
def files(models):
    return backward_motion_folder()


def load_backward(models, name):
    return InbetweenLoadBackwardMotion.execute(models[0], name, 1.0)


def test_missing_backward_weights(models):
    with pytest.raises(WeightsError, match=r"backward_motion: .*nothing\.safetensors.*models/backward_motion"):
        load_backward(models, "nothing.safetensors")


def test_truncated_backward_weights(models, files):
    (files / "short.safetensors").write_bytes((files / GOOD).read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"backward_motion: .*short\.safetensors.*truncated"):
        load_backward(models, "short.safetensors")


def test_pickled_backward_weights(models, files):
    torch.save({"a": torch.zeros(1)}, files / "weights.pt")
    with pytest.raises(WeightsError, match=r"backward_motion: .*pickle weights\.pt.*weights_only=True"):
        load_backward(models, "weights.pt")


def test_backward_weights_with_nan(models, files):
    tensors = load_file(files / GOOD)
    tensors[min(tensors)][0, 0] = float("nan")
    save_file(tensors, files / "nan.safetensors")
    with pytest.raises(WeightsError, match="backward_motion: .*NaN"):
        load_backward(models, "nan.safetensors")


def test_backward_weights_of_another_width(models, files):
    tensors, _ = read_backward_motion(files / GOOD)
    wider = {key: torch.zeros(64, 64) for key in tensors}
    write_backward_motion(files / "wide.safetensors", wider, {}, overwrite=True)
    with pytest.raises(WeightsError, match=r"backward_motion: .*\(32, 32\).*\(64, 64\).*another width"):
        load_backward(models, "wide.safetensors")


def test_backward_weights_that_lack_layers(models, files):
    tensors, _ = read_backward_motion(files / GOOD)
    layer = min(tensors).rsplit(".attn1.", 1)[0]
    save_file({key: tensor for key, tensor in tensors.items() if not key.startswith(layer)}, files / "few.safetensors")
    with pytest.raises(WeightsError, match="backward_motion: .*without 2 of them"):
        load_backward(models, "few.safetensors")


def test_whole_unet_instead_of_differences(models, files):
    source = REFERENCE / "tiny-svd-reverse-motion" / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copy(source, files / "unet.safetensors")
    with pytest.raises(WeightsError, match="backward_motion: .*whole UNet.*Convert Backward Motion Weights"):
        load_backward(models, "unet.safetensors")


def test_model_without_backward_weights(models, encoded):
    plain, _, _ = InbetweenLoadSVD.execute("tiny-svd-xt/").args
    with pytest.raises(ValueError, match="model: .*Load Backward Motion Weights.*time-reversal"):
        sample(plain, encoded)


def test_model_that_is_no_svd(encoded, models):
    bank = models[0].get_additional_models_with_key("inbetween_backward_motion")[0]
    with pytest.raises(ValueError, match="model: expected Stable Video Diffusion"):
        sample(bank, encoded)
    with pytest.raises(WeightsError, match="model: expected Stable Video Diffusion"):
        InbetweenLoadBackwardMotion.execute(bank, GOOD, 1.0)


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of a diffusers folder that the host finds as `copy/`."""
    import folder_paths

    shutil.copytree(REFERENCE / "tiny-svd-xt", tmp_path / "copy")
    paths = [str(tmp_path), *folder_paths.get_folder_paths("diffusers")]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "diffusers", (paths, {"folder"}))
    return tmp_path / "copy"


@pytest.mark.parametrize(
    "lost",
    [
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "image_encoder/model.safetensors",
        "unet/config.json",
        "image_encoder/config.json",
    ],
)
def test_folder_with_a_missing_file(copied, lost):
    (copied / lost).unlink()
    with pytest.raises(WeightsError, match="model_name: Expected .*found n"):
        InbetweenLoadSVD.execute("copy/")


def test_folder_with_fp16_names_loads(copied):
    for path in list(copied.rglob("*.safetensors")):
        path.rename(path.with_name(path.stem + ".fp16.safetensors"))
    found, expected = (InbetweenLoadSVD.execute(name).args for name in ("copy/", "tiny-svd-xt/"))
    # The UNet, the image encoder and the VAE hold the same numbers.
    for network in (
        lambda parts: parts[0].model,
        lambda parts: parts[1].model,
        lambda parts: parts[2].first_stage_model,
    ):
        ours, theirs = network(found).state_dict(), network(expected).state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_folder_that_is_no_svd(copied):
    path = copied / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = {key: tensor for key, tensor in load_file(path).items() if "temporal" not in key and "time" not in key}
    save_file(tensors, path)
    with pytest.raises(WeightsError, match="model_name: Expected the UNet of Stable Video Diffusion"):
        InbetweenLoadSVD.execute("copy/")


def test_path_from_a_workflow_cannot_leave_the_hosts_folders(models, files):
    with pytest.raises(WeightsError, match="model_name: "):
        InbetweenLoadSVD.execute("../../")
    for name in ("../outside", "/tmp/outside", "a/../../b", "C:\\outside", ""):
        with pytest.raises(WeightsError, match="file_name: expected a plain name"):
            InbetweenConvertBackwardMotion.execute("tiny-svd/", "tiny-svd-reverse-motion/", name, "fp16", False)


def test_conversion_keeps_an_existing_file(models, files):
    before = (files / GOOD).read_bytes()
    with pytest.raises(WeightsError, match="exists already and is kept"):
        InbetweenConvertBackwardMotion.execute("tiny-svd/", "tiny-svd-reverse-motion/", GOOD, "fp16", False)
    assert (files / GOOD).read_bytes() == before


def test_conversion_of_a_model_with_itself(models):
    with pytest.raises(WeightsError, match="found no difference"):
        InbetweenConvertBackwardMotion.execute("tiny-svd/", "tiny-svd/", "same", "fp16", False)


def test_unwritable_output(models, files, monkeypatch):
    blocked = files / "blocked"
    blocked.write_text("a file where a folder is needed")
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "backward_motion", ([str(blocked)], {".safetensors"}))
    with pytest.raises(WeightsError, match="Could not write"):
        InbetweenConvertBackwardMotion.execute("tiny-svd/", "tiny-svd-reverse-motion/", "new", "fp16", False)
    assert blocked.read_text() == "a file where a folder is needed"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_nothing_half_written_is_left(models, files):
    before = set(files.iterdir())
    with pytest.raises(WeightsError):
        write_backward_motion(Path("/dev/full/new.safetensors"), read_backward_motion(files / GOOD)[0], {})
    assert set(files.iterdir()) == before


def test_foreign_conditioning(models, encoded):
    positive, negative, latent = encoded
    foreign = [[positive[0][0], {"concat_latent_image": positive[0][1]["concat_latent_image"]}]]
    with pytest.raises(ValueError, match="positive: .*Encode Keyframes"):
        sample(models[0], (foreign, negative, latent))
    with pytest.raises(ValueError, match="negative: .*Encode Keyframes"):
        sample(models[0], (positive, foreign, latent))


def test_other_number_of_frames_than_encoded(models, encoded):
    positive, negative, _ = encoded
    with pytest.raises(ValueError, match="latent_image: expected 4 frames.*found 6"):
        sample(models[0], (positive, negative, {"samples": torch.zeros(6, 4, 8, 8)}))


@pytest.mark.parametrize(
    ("key", "value", "feature"),
    [("area", (4, 4, 0, 0), "areas"), ("control", object(), "ControlNet"), ("gligen", object(), "GLIGEN")],
)
def test_conditioning_without_a_meaning_backward(models, encoded, key, value, feature):
    positive, negative, latent = encoded
    with pytest.raises(ValueError, match=f"positive: {feature} cannot be used"):
        sample(models[0], ([[positive[0][0], {**positive[0][1], key: value}]], negative, latent))


def test_replaced_self_attention(models, encoded):
    model = models[0].clone()
    model.set_model_attn1_replace(lambda q, k, v, options: v, "input", 1)
    with pytest.raises(ValueError, match="model: .*replaced by another node"):
        sample(model, encoded)


def test_sampler_that_is_none_of_the_hosts():
    with pytest.raises(ValueError, match="sampler: expected one of ComfyUI's samplers, found object"):
        InbetweenReinjectionSampler.execute(object(), 1, 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 1}, "frames: expected at least 2"),
        ({"width": 100}, "width: expected a multiple of 8, found 100"),
        ({"height": 63}, "height: expected a multiple of 8, found 63"),
    ],
)
def test_sizes_that_cannot_be(models, changes, message):
    with pytest.raises(ValueError, match=message):
        encode(models, **changes)


def encode_pictures(models, first, last):
    return InbetweenEncodeKeyframes.execute(models[1], models[2], 64, 64, 4, 7, 127, 0.0, 0, "crop", first, last).args


def test_batch_where_one_picture_is_wanted(models):
    first, last = pictures()
    with pytest.raises(ValueError, match="last_keyframe: expected one picture, found 2"):
        encode_pictures(models, first, torch.cat([last, last]))


def test_picture_of_one_pixel(models):
    _first, last = pictures()
    with pytest.raises(ValueError, match="first_keyframe: expected a picture of at least 8×8 pixels, found 1×1"):
        encode_pictures(models, torch.zeros(1, 1, 1, 3), last)


def test_grey_and_transparent_pictures_are_taken(models):
    first, last = pictures()
    grey, transparent = first[..., :1], torch.cat([last, torch.zeros_like(last[..., :1])], dim=-1)
    positive, _, _ = encode_pictures(models, grey, transparent)
    expected, _, _ = encode_pictures(models, grey.expand(-1, -1, -1, 3), last)
    assert torch.equal(positive[0][0], expected[0][0])


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
def test_pictures_of_another_aspect_are_fitted(models, fit):
    wide = pictures()[0].repeat(1, 1, 2, 1)
    positive, _, _latent = encode(models)
    arguments = InbetweenEncodeKeyframes.execute(models[1], models[2], 64, 64, 4, 7, 127, 0.0, 0, fit, wide, wide).args
    assert arguments[0][0][1]["concat_latent_image"].shape == positive[0][1]["concat_latent_image"].shape
