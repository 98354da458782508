"""Backward-motion files are made of two UNets, from a node and at the terminal, and of their own base only."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from generative_inbetweening.common import remarks
from generative_inbetweening.nodes import InbetweenConvertBackwardMotion, InbetweenLoadBackwardMotion, InbetweenLoadSVD
from generative_inbetweening.weights import backward_motion
from generative_inbetweening.weights.convert import convert
from generative_inbetweening.weights.files import read_metadata, read_tensors, save_tensors
from generative_inbetweening.weights.keys import unet as unet_keys
from helpers.model_folders import REFERENCE, backward_motion_folder, folder, use_folders

XT = REFERENCE / folder("-xt").rstrip("/")
PACK = Path(__file__).resolve().parents[2]
UNETS = Path(__file__).parents[1] / "reference"


@pytest.fixture(scope="module", autouse=True)
def folders(tmp_path_factory):
    use_folders(tmp_path_factory.mktemp("models"))


def test_conversion_is_the_difference_in_comfyui_names():
    InbetweenConvertBackwardMotion.execute("tiny-svd/", "tiny-svd-reverse-motion/", "difference", "fp32", True)
    path = backward_motion_folder() / "difference.safetensors"
    differences, metadata = backward_motion.read_backward_motion(path)
    base, tuned = (
        read_tensors(UNETS / name / "unet" / "diffusion_pytorch_model.safetensors")
        for name in ("tiny-svd", "tiny-svd-reverse-motion")
    )
    names = unet_keys.diffusers_to_comfy(base)
    changed = {
        f"diffusion_model.{names[key]}": tuned[key].float() - base[key].float()
        for key in base
        if not torch.equal(base[key], tuned[key])
    }
    assert differences.keys() == changed.keys() and len(changed) == 32
    assert all(torch.equal(differences[key], changed[key]) for key in changed)
    assert metadata == read_metadata(path)
    assert metadata["format"] == "backward-motion" and metadata["base"] == "tiny-svd"


def run_weights(*arguments, cwd) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(PACK / "weights"), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
def test_command_converts_from_any_folder(tmp_path):
    output = tmp_path / "new.safetensors"
    arguments = (
        "backward-motion",
        "--base",
        UNETS / "tiny-svd",
        "--fine-tuned",
        UNETS / "tiny-svd-reverse-motion" / "unet",
        "--output",
        output,
        "--license",
        "Apache-2.0",
    )
    done = run_weights(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "32 of 32" in done.stdout
    inspected = run_weights("inspect", output, cwd=tmp_path).stdout
    assert "16 temporal attentions, 32,768 numbers" in inspected and "license: Apache-2.0" in inspected
    again = run_weights(*arguments, cwd=tmp_path)
    assert again.returncode == 1 and "Traceback" not in again.stderr
    assert "--output: new.safetensors exists already" in again.stderr and "or add --overwrite" in again.stderr


@pytest.mark.slow
def test_conversion_never_holds_a_whole_model(tmp_path):
    """Two UNets of 200 MB each are converted within 150 MB more than an import of torch needs."""
    from safetensors.torch import save_file

    base = read_tensors(UNETS / "tiny-svd" / "unet" / "diffusion_pytorch_model.safetensors")
    padding = torch.zeros(50_000_000)
    for name in ("base", "tuned"):
        changed = {key: tensor + (name == "tuned") for key, tensor in base.items()}
        names = unet_keys.diffusers_to_comfy(base)
        save_file(
            {**{names[key]: tensor for key, tensor in changed.items()}, "padding": padding},
            tmp_path / f"{name}.safetensors",
        )
    script = (
        f"import resource, sys; sys.path.insert(0, {str(PACK)!r}); import torch\n"
        "from pathlib import Path\nfrom generative_inbetweening.weights.convert import convert\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "convert(Path('base.safetensors'), Path('tuned.safetensors'), Path('out.safetensors'), {})\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    kilobytes = 1 if sys.platform != "darwin" else 1 / 1024
    assert int(done.stdout.split()[-1]) * kilobytes < 150_000


def test_another_base_is_refused_unless_a_switch_says_so_and_the_file_remembers_it(caplog):
    arguments = (folder("-xt"), "tiny-svd-reverse-motion/", "wrong_base", "fp16", True)
    with pytest.raises(ValueError, match="base: .*probably not trained from tiny-svd-xt.*allow_other_base"):
        InbetweenConvertBackwardMotion.execute(*arguments)
    path = backward_motion_folder() / "wrong_base.safetensors"
    assert not path.exists()
    InbetweenConvertBackwardMotion.execute(*arguments, allow_other_base=True)
    assert "probably not trained from" in caplog.text and read_metadata(path)["other_base"] == "yes"
    # On the node as well as on the console.
    assert [record.name for record in caplog.records] == [remarks.__name__]
    caplog.clear()
    model = InbetweenLoadSVD.execute(folder("-xt")).args[0]
    InbetweenLoadBackwardMotion.execute(model, "wrong_base.safetensors", 1.0)
    assert "was made from tiny-svd-xt, which the fine-tuned model was not trained from" in caplog.text
    assert remarks.__name__ in [record.name for record in caplog.records]


@pytest.mark.parametrize(
    ("base_dtype", "tuned_dtype"), [(torch.float32, torch.float16), (torch.float16, torch.bfloat16)]
)
def test_the_right_base_is_known_whatever_number_formats_both_files_have(tmp_path, base_dtype, tuned_dtype):
    noise = torch.Generator().manual_seed(0)
    unets = [
        read_tensors(UNETS / name / "unet" / "diffusion_pytorch_model.safetensors")
        for name in ("tiny-svd", "tiny-svd-reverse-motion")
    ]
    factors = {key: 1 + 1e-3 * torch.randn(tensor.shape, generator=noise) for key, tensor in unets[0].items()}
    paths = [tmp_path / "base.safetensors", tmp_path / "tuned.safetensors"]
    for path, unet, dtype in zip(paths, unets, (base_dtype, tuned_dtype)):
        save_tensors(path, {key: (tensor * factors[key]).to(dtype) for key, tensor in unet.items()}, {})
    convert(*paths, tmp_path / "out.safetensors", {}, allow_other_base=False)
    assert "other_base" not in read_metadata(tmp_path / "out.safetensors")


@pytest.mark.slow
def test_another_base_is_refused_at_the_terminal(tmp_path):
    arguments = (
        "backward-motion",
        "--base",
        XT,
        "--fine-tuned",
        UNETS / "tiny-svd-reverse-motion",
        "--output",
        tmp_path / "new.safetensors",
    )
    done = run_weights(*arguments, cwd=tmp_path)
    assert done.returncode == 1 and "--base: Expected the model that was fine-tuned" in done.stderr
    assert "or add --allow-other-base" in done.stderr and "allow_other_base" not in done.stderr
    assert run_weights(*arguments, "--allow-other-base", cwd=tmp_path).returncode == 0
