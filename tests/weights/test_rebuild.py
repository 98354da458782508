"""Models that the host builds again: for every further device, and without dynamic VRAM for compiled ones and hooks.

Hosts without dynamic VRAM never ask; what they would be given is asked for here as newer hosts do it.
"""

import shutil

import comfy.model_management
import comfy.model_patcher
import pytest
import torch
from generative_inbetweening.nodes import InbetweenLoadBackwardMotion, InbetweenLoadSVD
from generative_inbetweening.weights.attach import ATTACHMENT, beside_its_weights
from generative_inbetweening.weights.svd import read_folder, write_single_file
from helpers.model_folders import REFERENCE, backward_motion_folder, folder
from helpers.small_model import encode, load_models, sample

from nodes import VAEDecode

CPU = torch.device("cpu")
DYNAMIC = hasattr(comfy.model_patcher, "ModelPatcherDynamic")
WAYS = {
    "deep clone": lambda patcher: patcher.clone(force_deepcopy=True),
    "another device": lambda patcher: patcher.clone().deepclone_multigpu(new_load_device=CPU),
}
needs_dynamic = pytest.mark.skipif(not DYNAMIC, reason="this host has no dynamic VRAM")


@pytest.fixture(scope="module")
def patched(models):
    """The small model with backward motion of strength 0.8 and a LoRA on both sides of it."""
    models = load_models(strength=0.8)
    model = models[0].clone()
    keys = [
        f"diffusion_model.input_blocks.{place}.to_v.weight"
        for place in ("1.1.time_stack.0.attn1", "2.1.transformer_blocks.0.attn1")
    ]
    changes = {
        key: ("diff", (0.5 * torch.randn(model.model.state_dict()[key].shape, generator=torch.manual_seed(0)),))
        for key in keys
    }
    assert len(model.add_patches(changes, 0.5)) == len(keys)
    return model


@pytest.fixture(scope="module")
def sampled(patched, encoded):
    return sample(patched, encoded, steps=1)


def again(patcher, **options):
    """The patcher that the host's own call gives."""
    factory, arguments, *index = patcher.cached_patcher_init
    made = factory(*arguments, **options)
    return made[index[0]] if index else made


def bank(model):
    (found,) = model.get_additional_models_with_key(ATTACHMENT)
    return found


def equal_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_every_network_remembers_its_file(models):
    loaded = InbetweenLoadSVD.execute(folder("-xt")).args
    for patcher in (loaded[0], loaded[1].patcher, loaded[2].patcher, bank(models[0])):
        for options in ({}, {"disable_dynamic": True}):
            made = again(patcher, **options)
            assert type(made) is comfy.model_patcher.ModelPatcher
            assert made.model is not patcher.model and equal_weights(made.model, patcher.model)
            assert not DYNAMIC or patcher.clone().cached_patcher_init == patcher.cached_patcher_init


@needs_dynamic
@pytest.mark.parametrize("way", WAYS)
def test_a_rebuilt_model_samples_the_same(patched, encoded, sampled, way):
    rebuilt = WAYS[way](patched)
    assert rebuilt.model is not patched.model and rebuilt.patches.keys() == patched.patches.keys()
    assert bank(rebuilt).load_device == CPU
    assert (bank(rebuilt).model is bank(patched).model) == (way == "deep clone")
    assert rebuilt.get_attachment(ATTACHMENT).strength == 0.8
    assert beside_its_weights(rebuilt).get_attachment(ATTACHMENT).weights is bank(rebuilt).model
    assert torch.equal(sample(rebuilt, encoded, steps=1), sampled)
    assert torch.equal(sample(patched, encoded, steps=1), sampled)


@needs_dynamic
def test_a_rebuilt_vae_and_image_encoder_give_the_same(models, encoded):
    for rebuild in WAYS.values():
        copies = [models[0], *map(shallow, models[1:])]
        for owner in copies[1:]:
            owner.patcher = rebuild(owner.patcher)
        # As Select VAE Device does.
        copies[1].model, copies[2].first_stage_model = (owner.patcher.model for owner in copies[1:])
        again = encode(copies)
        assert torch.equal(again[0][0][0], encoded[0][0][0])
        assert torch.equal(again[0][0][1]["concat_latent_image"], encoded[0][0][1]["concat_latent_image"])
        latents = {"samples": torch.randn(3, 4, 8, 8, generator=torch.manual_seed(0))}
        frames = [VAEDecode().decode(vae, latents)[0] for vae in (models[2], copies[2])]
        assert torch.equal(*frames)


def shallow(owner):
    copy = type(owner).__new__(type(owner))
    copy.__dict__.update(owner.__dict__)
    return copy


@needs_dynamic
def test_select_device_nodes(patched, models, encoded, sampled):
    from comfy_extras.nodes_multigpu import SelectModelDeviceNode, SelectVAEDeviceNode

    (model,) = SelectModelDeviceNode.execute(patched, "cpu").args
    assert torch.equal(sample(model, encoded, steps=1), sampled)
    assert SelectVAEDeviceNode.execute(models[2], "default").args[0].patcher.model is models[2].first_stage_model


def test_a_file_that_became_another_is_named(models, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "checkpoints", ([str(tmp_path)], {".safetensors"}))
    parts = read_folder(REFERENCE / folder("-xt").rstrip("/"))
    write_single_file(parts, tmp_path / "svd.safetensors")
    loaded = InbetweenLoadSVD.execute("svd.safetensors").args
    parts.unet["extra"] = torch.zeros(3)
    parts.config.image_encoder_heads = 1
    write_single_file(parts, tmp_path / "svd.safetensors", overwrite=True)
    for patcher in (loaded[0], loaded[1].patcher, loaded[2].patcher):
        with pytest.raises(ValueError, match=r"model_name: .*svd\.safetensors.*another|model of other sizes"):
            again(patcher)
    file = backward_motion_folder() / "other.safetensors"
    shutil.copy(backward_motion_folder() / "tiny_backward_motion.safetensors", file)
    (model,) = InbetweenLoadBackwardMotion.execute(loaded[0], file.name, 1.0).args
    file.unlink()
    with pytest.raises(ValueError, match=r"Load Backward Motion Weights, backward_motion: .*other\.safetensors"):
        again(bank(model))


@pytest.fixture
def dynamic(monkeypatch):
    """Dynamic VRAM as far as a CPU has it: the host's patcher itself, without the driver that it asks for memory."""
    import comfy_aimdo.host_buffer

    class Buffer:
        size = 0

        def __init__(self, *_):
            pass

    class OnCPU(comfy.model_patcher.ModelPatcherDynamic):
        def __new__(cls, *_, **__):
            return object.__new__(cls)

    monkeypatch.setattr(comfy_aimdo.host_buffer, "HostBuffer", Buffer)
    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", OnCPU)
    yield OnCPU
    comfy.model_management.current_loaded_models.clear()


@needs_dynamic
@pytest.mark.parametrize("way", ["as it is", "without", "for hooks"])
def test_dynamic_vram(dynamic, models, encoded, way):
    model = load_models()[0]
    assert type(model) is dynamic and type(bank(model)) is dynamic
    if way == "as it is":
        assert beside_its_weights(model) is model
    else:
        before, model = (
            model,
            (model.clone(disable_dynamic=True) if way == "without" else model.get_non_dynamic_delegate()),
        )
        assert not model.is_dynamic() and model.model is not before.model
        placed = beside_its_weights(model)
        assert not bank(placed).is_dynamic() and placed.get_attachment(ATTACHMENT).weights is bank(placed).model
        # Once, not for every run.
        assert bank(beside_its_weights(model)).model is bank(placed).model
    assert torch.equal(sample(model, encoded, steps=1), sample(models[0], encoded, steps=1))
