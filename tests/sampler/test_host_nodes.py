"""Nodes of the host between the loader and our sampler: each acts as in the host's KSampler, or is refused by name.

The table knows every node class of the hosts that takes and gives a MODEL. Each is run with its default inputs on the
small model, in front of the host's KSampler and of ours. One that the table does not know fails.
"""

import asyncio
import inspect
import logging
import os

import folder_paths
import pytest
import safetensors.torch
import torch
from helpers.small_model import SIZE, pictures, plain_ksampler, sample

import nodes as host

# Changes the video where it changes the host's, with the same inputs, and leaves it alone where it leaves the host's.
ACTS = [
    "APG",
    "ARVideoI2V",
    "CFGNorm",
    "CFGOverride",
    "CFGZeroStar",
    "ChromaRadianceOptions",
    "DifferentialDiffusion",
    "EasyCache",
    "Epsilon Scaling",
    "FreSca",
    "FreeU",
    "FreeU_V2",
    "HyperTile",
    "HypernetworkLoader",
    "LTXVModalityGuidance",
    "LTXVSpatioTemporalGuidance",
    "LatentApplyOperationCFG",
    "LazyCache",
    "LoraLoader",
    "LoraLoaderBypass",
    "LoraLoaderBypassModelOnly",
    "LoraLoaderModelOnly",
    "LoraModelLoader",
    "Mahiro",
    "MiniMaxH3SigmaShift",
    "ModelAttentionBackend",
    "ModelComputeDtype",
    "ModelSamplingAuraFlow",
    "ModelSamplingContinuousEDM",
    "ModelSamplingContinuousV",
    "ModelSamplingDiscrete",
    "ModelSamplingFlux",
    "ModelSamplingLTXV",
    "ModelSamplingSD3",
    "ModelSamplingStableCascade",
    "MultiGPU_WorkUnits",
    "NAGuidance",
    "PatchModelAddDownscale",
    "PerturbedAttentionGuidance",
    "RescaleCFG",
    "ScaleROPE",
    "SelectModelDevice",
    "SkipLayerGuidanceDiT",
    "SkipLayerGuidanceSD3",
    "TCFG",
    "TomePatchModel",
    "UNetCrossAttentionMultiply",
    "UNetSelfAttentionMultiply",
    "UNetTemporalAttentionMultiply",
    "VideoLinearCFGGuidance",
    "VideoTriangleCFGGuidance",
    "WanAnimate2Cache",
    "wanBlockSwap",
]
# {node: what our sentence says of it}.
REFUSED = {
    "ContextWindowsManual": "ContextWindowsManual",
    "LTXVContextWindows": "LTXVContextWindows",
    "PerpNeg": "PerpNeg .*conditioning of its own",
    "SelfAttentionGuidance": "replaced by .*SelfAttentionGuidance",
    "SkipLayerGuidanceDiTSimple": "SkipLayerGuidanceDiTSimple",
    "WanContextWindowsManual": "WanContextWindowsManual",
}
# The node itself refuses SVD, or fails in the host's KSampler, too, or asks for parts of another kind of model.
NOT_FOR_SVD = {
    "AnimaLLLiteApply": "patches of Anima",
    "FluxKVCache": "attention of Flux",
    "HiDreamO1PatchSeamSmoothing": "sampling of HiDream",
    "LTXVReferenceAudio": "sound for LTX",
    "ModelNoiseScale": "sampling of flow models",
    "TemporalScoreRescaling": "one picture: fails on several frames",
    "TripoSplatSamplingPreview": "previews of TripoSplat",
    "QwenImageDiffsynthControlnet": "patches of Qwen-Image",
    "RenormCFG": "one picture: fails on several frames",
    "SUPIRApply": "patches of SDXL",
    "TrainLoraNode": "a training, no sampling",
    "USOStyleReference": "patches of Flux",
    "WanInfiniteTalkToVideo": "patches of Wan",
    "WanUni3CControlnetApply": "patches of Wan",
    "ZImageFunControlnet": "patches of Z-Image",
}
# Leave weight patches on the model and nothing else, as the LoRA loaders do; the host takes a minute for each of them.
WEIGHTS_OF_TWO_MODELS = "ModelMerge"
# tests/sampler/test_precision.py runs it: with its default, compiling takes minutes.
ELSEWHERE = ["TorchCompileModel"]
LAYER = "diffusion_model.input_blocks.1.1.time_stack.0.attn1.to_v"
ROUNDING = 2e-3


@pytest.fixture(scope="module", autouse=True)
def extra_nodes():
    """The host's nodes beyond its core, as its server registers them."""
    before = dict(host.NODE_CLASS_MAPPINGS)
    disabled, _ = logging.root.manager.disable, logging.disable(logging.WARNING)
    asyncio.run(host.init_builtin_extra_nodes())
    logging.disable(disabled)
    yield
    host.NODE_CLASS_MAPPINGS.clear()
    host.NODE_CLASS_MAPPINGS.update(before)


def model_nodes() -> list[str]:
    """The ids of the host's nodes that take and give a MODEL."""
    found = []
    for name, node in host.NODE_CLASS_MAPPINGS.items():
        kinds = node.INPUT_TYPES()
        taken = [value[0] for part in ("required", "optional") for value in kinds.get(part, {}).values()]
        if "MODEL" in taken and "MODEL" in node.RETURN_TYPES:
            found.append(name)
    return found


@pytest.fixture(scope="module")
def values(models, encoded, tmp_path_factory) -> dict:
    """What links bring to a node, by type, and names of files."""
    folder = tmp_path_factory.mktemp("files")
    up, down = torch.randn(2, 32, 4, generator=torch.manual_seed(0))
    lora = {f"{LAYER}.lora_up.weight": up, f"{LAYER}.lora_down.weight": down.T.contiguous()}
    safetensors.torch.save_file(lora, folder / "lora.safetensors")
    network = {"linear.weight": torch.randn(32, 32, generator=torch.manual_seed(0)), "linear.bias": torch.ones(32)}
    torch.save({32: [network, network]}, folder / "hypernetwork.pt")
    for kind in ("loras", "hypernetworks"):
        folder_paths.add_model_folder_path(kind, str(folder))
    other = models[0].clone()
    other.add_patches({f"{LAYER}.weight": ("diff", (up @ down.T,))})
    tonemap = host.NODE_CLASS_MAPPINGS["LatentOperationTonemapReinhard"].execute(1.0).args[0]
    return {
        "MODEL": [models[0], other],
        "VAE": models[2],
        "IMAGE": pictures()[0],
        "CONDITIONING": encoded[1],
        "LATENT": encoded[2],
        "LATENT_OPERATION": tonemap,
        "LORA_MODEL": lora,
        "CLIP": None,
        "lora_name": "lora.safetensors",
        "hypernetwork_name": "hypernetwork.pt",
        "width": SIZE,
        "height": SIZE,
    }


def applied(name: str, values: dict, **changes):
    """The MODEL that the node gives for its default inputs; LookupError where it asks for what SVD has not."""
    node, models, inputs = host.NODE_CLASS_MAPPINGS[name], list(values["MODEL"]), {}
    for key, (kind, *options) in node.INPUT_TYPES().get("required", {}).items():
        options = options[0] if options else {}
        choices = kind if isinstance(kind, list) else options.get("options", [])
        if kind == "MODEL":
            inputs[key] = models.pop(0)
        elif key in values or str(kind) in values:
            inputs[key] = values[key] if key in values else values[kind]
        elif "default" in options or choices:
            inputs[key] = options.get("default", choices[0] if choices else None)
        else:
            raise LookupError(f"{name} asks for {kind}")
    result = getattr(node(), node.FUNCTION)(**inputs | changes)
    if inspect.iscoroutine(result):
        result = asyncio.run(result)
    return getattr(result, "result", result)[node.RETURN_TYPES.index("MODEL")]


@pytest.fixture(scope="module")
def without(models, encoded) -> tuple[torch.Tensor, torch.Tensor]:
    """The videos without a node: the host's and ours."""
    return plain_ksampler(models[0], encoded), sample(models[0], encoded, steps=2)


def far(result: torch.Tensor, other: torch.Tensor) -> bool:
    return not torch.allclose(result, other, rtol=ROUNDING, atol=ROUNDING * other.abs().max(), equal_nan=True)


def there(name: str) -> None:
    if name not in host.NODE_CLASS_MAPPINGS:
        pytest.skip("this host has no such node")


def test_every_node_of_the_host_is_in_the_table():
    known = {*ACTS, *REFUSED, *NOT_FOR_SVD, *ELSEWHERE}
    unknown = [name for name in model_nodes() if name not in known and not name.startswith(WEIGHTS_OF_TWO_MODELS)]
    assert len(model_nodes()) > 60 and not unknown


def acts_alike(model, encoded, without) -> bool:
    acts = far(plain_ksampler(model, encoded), without[0])
    return far(sample(model, encoded, steps=2), without[1]) == acts


@pytest.mark.slow
@pytest.mark.parametrize("name", ACTS)
def test_a_node_acts_as_in_the_hosts_ksampler(models, encoded, values, without, name):
    there(name)
    assert acts_alike(applied(name, values), encoded, without)


@pytest.mark.skipif("INBETWEEN_MERGES" not in os.environ, reason="takes half an hour; set INBETWEEN_MERGES=1")
def test_merged_models_act_as_in_the_hosts_ksampler(models, encoded, values, without):
    """Those that the host can apply to two SVD models; the others are made of another model's layers."""
    done = []
    for name in filter(lambda name: name.startswith(WEIGHTS_OF_TWO_MODELS), model_nodes()):
        try:
            model = applied(name, values)
        except LookupError:
            continue
        assert acts_alike(model, encoded, without), name
        done.append(name)
    assert {"ModelMergeSimple", "ModelMergeBlocks", "ModelMergeAdd", "ModelMergeSubtract"} <= set(done)


@pytest.mark.parametrize("name", REFUSED)
def test_a_node_is_refused_by_name_before_the_first_step(encoded, values, name, monkeypatch):
    there(name)
    model = applied(name, values)
    monkeypatch.setattr(type(model.model), "apply_model", lambda *arguments, **more: pytest.fail("a step was made"))
    with pytest.raises(ValueError, match=f"^model: .*{REFUSED[name]}.*Disconnect"):
        sample(model, encoded, steps=2)


@pytest.mark.parametrize("name", NOT_FOR_SVD)
def test_a_node_is_not_for_svd(encoded, values, name):
    there(name)
    try:
        model = applied(name, values)
    except Exception:  # noqa: BLE001 - the host's own words, whatever they are
        return
    with pytest.raises(Exception):  # noqa: B017, PT011 - the host's own words, whatever they are
        plain_ksampler(model, encoded)
    with pytest.raises(ValueError, match=f"^model: .*{name}.* failed on this model.*Disconnect"):
        sample(model, encoded, steps=2)
