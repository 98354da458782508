"""For the training tests: diffusers' own networks with random weights, and videos to train on. No host is needed.

`small_model.py` is for sampling tests in the host, `wide_models.py` writes the models of the recordings.
"""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

FRAMES, SIZE = 4, 32


def tiny_unet(seed: int = 0, width: int = 32) -> UNetSpatioTemporalConditionModel:
    """SVD's four levels and 16 temporal attention layers, `width` channels everywhere, random weights."""
    torch.manual_seed(seed)
    return (
        UNetSpatioTemporalConditionModel(
            sample_size=SIZE // 8,
            block_out_channels=(width,) * 4,
            num_attention_heads=(2,) * 4,
            cross_attention_dim=32,
            projection_class_embeddings_input_dim=96,
            addition_time_embed_dim=32,
            num_frames=FRAMES,
        )
        .eval()
        .requires_grad_(False)
    )


def save_tiny_svd(folder: Path, seed: int = 0, width: int = 32) -> Path:
    """A whole diffusers folder: unet, vae, image_encoder."""
    tiny_unet(seed, width).save_pretrained(folder / "unet")
    torch.manual_seed(seed + 1)
    AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * 4, block_out_channels=(32,) * 4, layers_per_block=1
    ).save_pretrained(folder / "vae")
    CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            patch_size=56,
            image_size=224,
            projection_dim=32,
        )
    ).save_pretrained(folder / "image_encoder")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableVideoDiffusionPipeline"}))
    return folder


def moving_frames(frames: int, seed: int) -> list[np.ndarray]:
    """A bright square moving over a random background: uint8 [48, 64, 3] each."""
    random = np.random.default_rng(seed)
    background = random.integers(0, 128, (6, 8, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    clip = []
    for number in range(frames):
        frame = background.copy()
        frame[16:32, 4 + 2 * number : 20 + 2 * number] = random.integers(128, 256, 3)
        clip.append(frame)
    return clip


def save_video(path: Path, frames: int = 8, seed: int = 0) -> Path:
    """A small real video file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for array in moving_frames(frames, seed):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode())
    return path


def save_frame_folder(folder: Path, frames: int = 8, seed: int = 0) -> Path:
    """A folder of numbered PNG frames."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, array in enumerate(moving_frames(frames, seed)):
        Image.fromarray(array).save(folder / f"frame{number}.png")
    return folder
