"""`python weights inspect` says what any file or folder is, and a checkpoint of another kind is refused by its kind."""

import shutil
from pathlib import Path

import pytest
import torch
from generative_inbetweening.nodes import InbetweenLoadSVD
from generative_inbetweening.weights import identify
from generative_inbetweening.weights.command_line import main
from generative_inbetweening.weights.files import SafetensorsFile, read_tensors
from generative_inbetweening.weights.svd import read_folder, write_single_file
from helpers.model_folders import REFERENCE, folder, use_empty_folders
from safetensors.torch import save_file

XT = REFERENCE / folder("-xt").rstrip("/")
DEMO = Path(__file__).resolve().parents[2] / "demo"


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    write_single_file(read_folder(XT), tmp_path / "svd_xt.safetensors")
    return tmp_path / "svd_xt.safetensors"


def inspected(path, capsys) -> str:
    assert main(["inspect", str(path)]) == 0
    return capsys.readouterr().out


def with_image_decoder(path: Path) -> Path:
    """The checkpoint as Stability AI's `svd_xt_image_decoder.safetensors` is: nothing temporal in its VAE."""
    kept = {
        key: tensor
        for key, tensor in read_tensors(path).items()
        if not (key.startswith(identify.VAE_PREFIX) and ("time" in key or key.endswith("mix_factor")))
    }
    other = path.with_name("svd_xt_image_decoder.safetensors")
    save_file(kept, other)
    return other


def test_whole_model(checkpoint, capsys, monkeypatch):
    monkeypatch.setattr(SafetensorsFile, "get_tensor", lambda *_: pytest.fail("no tensor is needed to say what it is"))
    for path in (checkpoint, XT):
        text = inspected(path, capsys)
        assert f"{path.name}" in text and "a whole Stable Video Diffusion model" in text
        width = read_width(path)
        assert f"UNet: SVD's, {width} channels wide" in text and "VAE: with SVD's temporal decoder" in text
        assert "CLIP image encoder" in text and "not in the weights; SVD was trained on 14, SVD-XT on 25" in text
    assert "num_frames of its config: 14" in text or "num_frames of its config: 25" in text


def read_width(path: Path) -> int:
    unet = path if path.is_file() else path / "unet" / "diffusion_pytorch_model.safetensors"
    with SafetensorsFile(unet) as file:
        return next(
            stored.shape[0]
            for key, stored in file.stored.items()
            if key in (identify.UNET_PREFIX + "input_blocks.0.0.weight", "conv_in.weight")
        )


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("unet", "the UNet of Stable Video Diffusion, alone"),
        ("vae", "the VAE of Stable Video Diffusion, alone"),
        ("image_encoder", "a CLIP image encoder, which may be that of Stable Video Diffusion"),
    ],
)
def test_parts(part, words, capsys):
    assert words in inspected(XT / part, capsys)
    assert words in inspected(next((XT / part).glob("*.safetensors")), capsys)


def test_backward_motion_file(capsys):
    text = inspected(DEMO / "demo_backward_motion.safetensors", capsys)
    assert "a backward-motion file: 10 temporal attentions, 253,952 numbers, F16" in text and "base: demo-svd" in text


def test_folder_of_several_models_names_each(checkpoint, tmp_path, capsys):
    shutil.copy(DEMO / "demo_backward_motion.safetensors", tmp_path / "backward.safetensors")
    text = inspected(tmp_path, capsys)
    assert "backward.safetensors: a backward-motion file" in text
    assert f"{checkpoint.name}: a whole Stable Video Diffusion model" in text
    checkpoint.unlink()
    text = inspected(tmp_path, capsys)
    assert "backward.safetensors: a backward-motion file" in text and "no part of" not in text


def test_pipeline_with_a_checkpoint_beside_its_parts(tmp_path, capsys):
    shutil.copytree(XT, tmp_path / "xt")
    shutil.copy(DEMO / "demo_svd.safetensors", tmp_path / "xt")
    text = inspected(tmp_path / "xt", capsys)
    assert f"xt/: a whole Stable Video Diffusion model\n  UNet: SVD's, {read_width(XT)} channels wide" in text
    assert "demo_svd.safetensors: a whole Stable Video Diffusion model\n  UNet: SVD's, 64 channels wide" in text


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("lora_unet_down_blocks_0.lora_up.weight", "a LoRA"),
        ("double_blocks.0.img_attn.qkv.weight", "a Flux"),
        ("model.diffusion_model.input_blocks.0.0.weight", "Stable Diffusion 1, 2 or XL"),
        ("encoder.conv_in.weight", "not known here"),
        ("text_model.encoder.layers.0.mlp.fc1.weight", "a text encoder"),
        ("decoder.conv_in.weight", "no part of Stable Video Diffusion|VAE"),
    ],
)
def test_other_files(tmp_path, capsys, key, words):
    tensors = {key: torch.zeros(4, 4, 3, 3)}
    save_file(
        tensors | ({"decoder.mid.block_1.conv1.weight": torch.zeros(1)} if key.startswith("decoder") else {}),
        tmp_path / "x.safetensors",
    )
    text = inspected(tmp_path / "x.safetensors", capsys)
    assert "no part of Stable Video Diffusion" in text and any(word in text for word in words.split("|"))


def test_image_decoder_is_named_with_what_to_take_instead(checkpoint, tmp_path, capsys, monkeypatch):
    other = with_image_decoder(checkpoint)
    text = inspected(other, capsys)
    assert "an image VAE, which decodes every frame alone" in text and "take svd.safetensors or svd_xt" in text
    host = use_empty_folders(tmp_path, monkeypatch)
    shutil.move(other, host / "checkpoints")
    with pytest.raises(
        ValueError,
        match=r"model_name: .*svd_xt_image_decoder\.safetensors with an image decoder.*"
        "Choose svd.safetensors or svd_xt.safetensors",
    ):
        InbetweenLoadSVD.execute(other.name)


def test_image_decoder_in_a_folder(tmp_path, monkeypatch):
    host = use_empty_folders(tmp_path, monkeypatch)
    shutil.copytree(XT, host / "diffusers" / "copy")
    path = host / "diffusers" / "copy" / "vae" / "diffusion_pytorch_model.safetensors"
    save_file(
        {
            key.replace("spatial_res_block.", ""): tensor
            for key, tensor in read_tensors(path).items()
            if "temporal" not in key and "time" not in key
        },
        path,
    )
    with pytest.raises(ValueError, match="model_name: .*copy/ with an image decoder"):
        InbetweenLoadSVD.execute("copy/")


def test_checkpoint_of_another_model_says_what_it_seems_to_be(tmp_path, monkeypatch):
    host = use_empty_folders(tmp_path, monkeypatch)
    save_file(
        {
            name: torch.zeros(4, 4, 3, 3)
            for name in ("model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.decoder.conv_in.weight")
        },
        host / "checkpoints" / "sd.safetensors",
    )
    with pytest.raises(ValueError, match="without its CLIP image encoder. It seems to be a model of Stable Diffusion"):
        InbetweenLoadSVD.execute("sd.safetensors")


@pytest.mark.parametrize("name", ["nothing", "README.md", ".", "x" * 5000])
def test_what_cannot_be_inspected_gets_one_sentence(tmp_path, capsys, name):
    path = Path(__file__).resolve().parents[2] / name if name != "." else tmp_path
    assert main(["inspect", str(path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: Expected") and error.count("\n") == 1


def test_the_present_folder_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", "."]) == 1
    assert tmp_path.name in capsys.readouterr().err
