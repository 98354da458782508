"""Models that lack something: refused before anything is built, with the tensor's name."""

import re
import sys

import comfy.sd
import pytest
import torch
from generative_inbetweening.common.errors import WeightsError
from generative_inbetweening.nodes import InbetweenLoadSVD
from generative_inbetweening.weights.decoding import build_vae
from generative_inbetweening.weights.host import build_image_encoder, build_unet
from generative_inbetweening.weights.svd import PARTS, read_folder, write_single_file
from helpers.model_folders import REFERENCE, folder

# Those from which the host, and this pack, read the network's numbers.
TELLING = {
    "unet": [
        "input_blocks.0.0.weight",
        "out.2.weight",
        "time_embed.0.weight",
        "label_emb.0.0.weight",
        "input_blocks.1.0.in_layers.0.weight",
        "input_blocks.1.0.out_layers.3.weight",
        "input_blocks.3.0.op.weight",
        "output_blocks.11.0.in_layers.0.weight",
        "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
        "middle_block.1.proj_in.weight",
        "input_blocks.1.1.time_stack.0.attn1.to_q.weight",
    ],
    "vae": [
        "encoder.conv_in.weight",
        "decoder.conv_in.weight",
        "encoder.conv_out.bias",
        "decoder.mid.block_1.mix_factor",
        "encoder.down.0.block.0.conv1.weight",
    ],
    "image_encoder": [
        "vision_model.embeddings.class_embedding",
        "visual_projection.weight",
        "vision_model.pre_layrnorm.weight",
        "vision_model.embeddings.patch_embedding.weight",
        "vision_model.encoder.layers.0.mlp.fc1.weight",
    ],
}
BLOCKS = {
    "unet": [
        "input_blocks.4.",
        "input_blocks.1.1.",
        "input_blocks.11.",
        "output_blocks.0.",
        "output_blocks.11.",
        "output_blocks.5.1.",
        "output_blocks.8.2.",
        "middle_block.1.",
        "middle_block.",
        "input_blocks.3.",
    ],
    "vae": ["encoder.down.1.", "encoder.down.0.block.1.", "decoder.up.0.", "decoder.mid.", "decoder.up.1.block.2."],
    "image_encoder": ["vision_model.encoder.layers.0."],
}


@pytest.fixture(scope="module")
def parts():
    return read_folder(REFERENCE / folder("-xt").rstrip("/"))


def build(part: str, parts, tensors: dict[str, torch.Tensor]):
    if part == "vae":
        return build_vae(tensors)
    function = {"unet": build_unet, "image_encoder": build_image_encoder}[part]
    return function(tensors, parts.config)


@pytest.fixture
def nothing_is_built(monkeypatch):
    """No more of a UNet than the shapes that are compared."""
    monkeypatch.setattr(comfy.sd, "load_diffusion_model_state_dict", lambda *_, **__: sys.exit("built"))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.usefixtures("nothing_is_built")
def test_a_missing_tensor_is_named(parts, part):
    tensors = getattr(parts, part)
    # A prime number apart, so that all kinds of layers are among them.
    for key in [*TELLING[part], *list(tensors)[:: 211 if part == "unet" else 37]]:
        with pytest.raises(WeightsError, match=rf"the first: {re.escape(key)}\."):
            build(part, parts, {name: tensor for name, tensor in tensors.items() if name != key})


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.usefixtures("nothing_is_built")
def test_a_missing_block_is_named(parts, part):
    tensors = getattr(parts, part)
    for block in BLOCKS[part]:
        assert any(key.startswith(block) for key in tensors), block
        with pytest.raises(WeightsError, match=rf"the first: {re.escape(block)}"):
            build(part, parts, {name: tensor for name, tensor in tensors.items() if not name.startswith(block)})


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.usefixtures("nothing_is_built")
def test_a_tensor_of_another_shape_is_named(parts, part):
    tensors = getattr(parts, part)
    for key in [key for key in [*TELLING[part][::2], *list(tensors)[::401]] if tensors[key].ndim]:
        for shape in ((*tensors[key].shape[:-1], tensors[key].shape[-1] + 1), (1 + tensors[key].numel(),)):
            with pytest.raises(
                WeightsError,
                match=re.escape(key)
                if key
                not in (
                    "input_blocks.0.0.weight",
                    "label_emb.0.0.weight",
                    "vision_model.embeddings.patch_embedding.weight",
                )
                else "Expected",
            ):
                build(part, parts, {**tensors, key: torch.zeros(shape)})


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "kept",
    [lambda keys: keys[::2], lambda keys: keys[len(keys) // 2 :], lambda keys: keys[: len(keys) // 2]],
    ids=["every other", "second", "first"],
)
def test_half_a_network_is_refused(parts, part, kept):
    tensors = getattr(parts, part)
    with pytest.raises(WeightsError, match="Expected"):
        build(part, parts, {key: tensors[key] for key in kept(list(tensors))})


def test_the_node_refuses_it_by_the_tensors_name(parts, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "checkpoints", ([str(tmp_path)], {".safetensors"}))
    key = "output_blocks.11.1.time_stack.0.attn1.to_v.weight"
    kept = {name: tensor for name, tensor in parts.unet.items() if name != key}
    write_single_file(type(parts)(kept, parts.vae, parts.image_encoder, parts.config), tmp_path / "svd.safetensors")
    with pytest.raises(WeightsError, match=rf"^model_name: Expected every tensor .* the first: {re.escape(key)}\."):
        InbetweenLoadSVD.execute("svd.safetensors")


def test_what_quantised_models_have_beside_it_is_no_fault(parts):
    scales = {f"{key.removesuffix('weight')}scale_weight": torch.ones(()) for key in parts.unet if "to_q" in key}
    assert build("unet", parts, {**parts.unet, **scales}).model.diffusion_model is not None
