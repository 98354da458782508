"""Unusual input for Encode Keyframes: a picture of another size than the video, an image encoder of another width."""

import json

import comfy.clip_vision
import torch
from generative_inbetweening.nodes import InbetweenEncodeKeyframes

WIDE = torch.rand(1, 72, 96, 3, generator=torch.manual_seed(0))


def encoded_pictures(models, first, last, fit="crop", clip_vision=None, vae=None):
    """(positive, negative, latent) of two pictures for a video of 9 frames of 64×64."""
    return InbetweenEncodeKeyframes.execute(
        clip_vision or models[1], vae or models[2], 64, 64, 9, 7, 127, 0.02, 0, fit, first, last
    ).args


def initialised(module: torch.nn.Module) -> torch.nn.Module:
    """With small random weights: the host's layers begin as uninitialised memory."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return module


def clip_of(tmp_path, **changes) -> comfy.clip_vision.ClipVisionModel:
    """A CLIP image encoder of 24 channels, with random weights, of the host's class."""
    config = {
        "num_hidden_layers": 1,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 32,
        "patch_size": 16,
        "num_channels": 3,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "projection_dim": 24,
        "model_type": "clip_vision_model",
        **changes,
    }
    (tmp_path / "clip.json").write_text(json.dumps(config))
    model = comfy.clip_vision.ClipVisionModel(str(tmp_path / "clip.json"))
    return initialised(model.model) and model
