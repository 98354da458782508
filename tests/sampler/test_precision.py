"""Number formats, attention back ends and compilation as the host offers them: each gives the same video.

The difference of two videos is the mean distance of their latents over the mean size of the latents.
"""

import importlib.util
import os

import comfy.cli_args
import pytest
import torch
import torch._dynamo.utils
from comfy.ldm.modules import attention as host_attention
from comfy_extras.nodes_torch_compile import TorchCompileModel
from generative_inbetweening.nodes import InbetweenLoadBackwardMotion, InbetweenLoadSVD
from generative_inbetweening.weights.host import build_unet
from generative_inbetweening.weights.svd import read_folder
from helpers.model_folders import REFERENCE
from helpers.small_model import SETTINGS, sample

MODEL = "tiny-svd-xt/"

# Weights in these formats by the host's option, the host's arithmetic being float32 on a CPU: largest difference.
STORED = {
    "fp16_unet": (torch.float16, 1e-3),
    "bf16_unet": (torch.bfloat16, 1e-2),
    "fp8_e4m3fn_unet": (torch.float8_e4m3fn, 0.35),
    "fp8_e5m2_unet": (torch.float8_e5m2, 0.5),
}
# Arithmetic in these formats, as on a GPU.
COMPUTED = {torch.float16: 2e-2, torch.bfloat16: 5e-2}
ATTENTIONS = ["attention_basic", "attention_split", "attention_sub_quad", "attention_pytorch"]
OPTIONAL_ATTENTIONS = {
    "attention_sage": "sageattention",
    "attention_xformers": "xformers",
    "attention_flash": "flash_attn",
}


def difference(result: torch.Tensor, expected: torch.Tensor) -> float:
    assert torch.isfinite(result).all()
    return float((result - expected).abs().mean() / expected.abs().mean())


def load_with(option: str, monkeypatch):
    """The model as the host loads it when started with this option."""
    monkeypatch.setattr(comfy.cli_args.args, option, True)
    model = with_backward_motion(InbetweenLoadSVD.execute(MODEL).args[0])
    monkeypatch.setattr(comfy.cli_args.args, option, False)
    return model


def with_backward_motion(model):
    return InbetweenLoadBackwardMotion.execute(model, "tiny_backward_motion.safetensors", 1.0).args[0]


@pytest.mark.slow
@pytest.mark.parametrize("option", STORED)
def test_weights_of_less_precision(encoded, expected, option, monkeypatch):
    dtype, tolerance = STORED[option]
    model = load_with(option, monkeypatch)
    assert {tensor.dtype for tensor in model.model.diffusion_model.parameters() if tensor.ndim > 1} == {dtype}
    result = sample(model, encoded)
    print(f"{option}: {difference(result, expected):.1e}")
    assert difference(result, expected) < tolerance
    # All of it comes from the weights, nothing from the method on top: those weights in float32 give the same.
    stored = {name: tensor.float() for name, tensor in model.model.diffusion_model.state_dict().items()}
    rounded = build_unet(stored, read_folder(REFERENCE / MODEL).config)
    assert difference(sample(with_backward_motion(rounded), encoded), result) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("dtype", COMPUTED, ids=str)
@pytest.mark.parametrize("order", ["2", "1"])
def test_arithmetic_of_less_precision(encoded, expected, dtype, order, monkeypatch):
    model = load_with("fp16_unet", monkeypatch)
    # The host sets it for a device that computes in this format; on a CPU it never does.
    model.model.manual_cast_dtype = dtype
    result = sample(model, encoded, videos_per_call=order)
    print(f"{dtype}, {order}: {difference(result, expected):.1e}")
    assert 0 < difference(result, expected) < COMPUTED[dtype]


@pytest.mark.parametrize("name", [*ATTENTIONS, *OPTIONAL_ATTENTIONS])
def test_attention_back_ends(models, encoded, expected, name, monkeypatch):
    package = OPTIONAL_ATTENTIONS.get(name)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    backend, calls = getattr(host_attention, name), []

    def counted(*args, **kwargs):
        calls.append(name)
        return backend(*args, **kwargs)

    # What the host's options do when it starts.
    monkeypatch.setattr(host_attention, "optimized_attention", counted)
    result = sample(models[0], encoded)
    print(f"{name}: {difference(result, expected):.1e}")
    assert difference(result, expected) < 1e-3
    # Two calls a step: 16 spatial attentions in each, and 16 temporal ones for either direction.
    assert len(calls) == 2 * SETTINGS["steps"] * (16 + 2 * 16)


@pytest.mark.skipif(not os.environ.get("INBETWEEN_COMPILE"), reason="takes half a minute: set INBETWEEN_COMPILE=1")
def test_compiled_model(models, encoded, monkeypatch):
    # As on a GPU; the host's choice for a CPU asks for the free memory in the middle, where no compiler can follow.
    monkeypatch.setattr(host_attention, "optimized_attention", host_attention.attention_pytorch)
    plain = sample(models[0], encoded)
    # The node offers back ends that take minutes. This one traces the same and leaves out what they make of it.
    (model,) = TorchCompileModel.execute(models[0], "eager").args
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert difference(sample(model, encoded), plain) < 1e-3
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > before
    assert torch.equal(sample(models[0], encoded), plain)
