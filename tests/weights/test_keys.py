"""Names of tensors map strictly to the other layout and back, for every network."""

import pytest
import torch
from generative_inbetweening.weights.files import read_tensors
from generative_inbetweening.weights.keys import image_encoder as image_encoder_keys
from generative_inbetweening.weights.keys import unet as unet_keys
from generative_inbetweening.weights.keys import vae as vae_keys
from generative_inbetweening.weights.svd import read_folder
from helpers.model_folders import REFERENCE, folder

XT = REFERENCE / folder("-xt").rstrip("/")


@pytest.fixture(scope="module")
def parts():
    return read_folder(XT)


def test_unet_keys_map_strictly_both_ways():
    keys = set(read_tensors(XT / "unet" / "diffusion_pytorch_model.safetensors"))
    to_comfy = unet_keys.diffusers_to_comfy(keys)
    assert 1424 <= len(keys) <= 1426 and len(set(to_comfy.values())) == len(keys)
    back = unet_keys.comfy_to_diffusers(to_comfy.values())
    assert all(back[name] == key for key, name in to_comfy.items())


def test_unet_keys_of_other_depths_map_too():
    diffusers = pytest.importorskip("diffusers")
    for levels, layers in ((2, 1), (3, 2), (4, 1)):
        down = ["CrossAttnDownBlockSpatioTemporal"] * (levels - 1) + ["DownBlockSpatioTemporal"]
        up = ["UpBlockSpatioTemporal"] + ["CrossAttnUpBlockSpatioTemporal"] * (levels - 1)
        with torch.device("meta"):
            unet = diffusers.UNetSpatioTemporalConditionModel(
                block_out_channels=tuple(32 * 2**level for level in range(levels)),
                down_block_types=tuple(down),
                up_block_types=tuple(up),
                layers_per_block=layers,
                num_attention_heads=(1,) * levels,
            )
        keys = set(unet.state_dict())
        to_comfy = unet_keys.diffusers_to_comfy(keys)
        back = unet_keys.comfy_to_diffusers(to_comfy.values())
        assert len(set(to_comfy.values())) == len(keys) and all(back[to_comfy[key]] == key for key in keys)


def test_a_foreign_key_is_refused():
    keys = set(read_tensors(XT / "unet" / "diffusion_pytorch_model.safetensors"))
    with pytest.raises(ValueError, match="the first: surprise.weight"):
        unet_keys.diffusers_to_comfy(keys | {"surprise.weight"})


def test_vae_keys_map_strictly_both_ways(parts):
    original = read_tensors(XT / "vae" / "diffusion_pytorch_model.safetensors")
    back = vae_keys.tensors_to_diffusers(parts.vae)
    assert back.keys() == original.keys()
    untouched = [key for key in original if not key.startswith(("encoder.conv_out", "quant_conv"))]
    assert all(torch.equal(back[key], original[key]) for key in untouched)


def test_image_encoder_keys_map_strictly_both_ways(parts):
    back = image_encoder_keys.tensors_to_transformers(image_encoder_keys.tensors_to_openclip(parts.image_encoder))
    assert back.keys() == parts.image_encoder.keys()
    assert all(torch.equal(back[key], parts.image_encoder[key]) for key in back)
