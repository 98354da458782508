"""The UNet of the recordings of other methods' releases: 64 channels wide, 8 million random numbers.

Stored are its norms and, in their metadata, the order in which PyTorch drew the rest: all uniform, from the seed 2024,
some made larger afterwards. NumPy's frozen generator draws the same numbers on every machine.
"""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

MODEL = "tiny-svd-xt"
UNET = "diffusion_pytorch_model.safetensors"
SEED = 2024
# Larger than PyTorch draws them, so that attention and time embedding count.
ENLARGED = {
    2.0: ("to_q.weight", "to_k.weight"),
    1.5: (
        "to_v.weight",
        "to_out.0.weight",
        *(f"{name}_embedding.linear_2.{part}" for name in ("time", "add") for part in ("weight", "bias")),
        "conv_out.weight",
    ),
}


def write_peer_model(peers: Path, pipeline: Path, folder: Path) -> None:
    """A diffusers folder with the UNet of the recordings in `peers`.

    Its VAE and image encoder are those of `pipeline`, another diffusers folder; the recordings do not use them.
    """
    shutil.copytree(pipeline, folder / MODEL, ignore=shutil.ignore_patterns("unet"))
    whole = peers / "models" / MODEL / "unet"
    if whole.exists():
        shutil.copytree(whole, folder / MODEL / "unet")
        return
    shutil.copytree(peers / "model", folder / MODEL / "unet", ignore=shutil.ignore_patterns("*.safetensors"))
    stored = peers / "model" / "norms.safetensors"
    with safe_open(stored, "pt") as file:
        shapes = json.loads(file.metadata()["drawn"])
    save_file(load_file(stored) | drawn_weights(shapes), folder / MODEL / "unet" / UNET, {"format": "pt"})


def drawn_weights(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """{name: bfloat16 tensor} as PyTorch draws the weights and biases of layers, in the order of `shapes`.

    Uniform within ±1/√(inputs of the layer), from 24 random bits each.
    """
    generator, weights = np.random.RandomState(SEED), {}
    for name, shape in shapes.items():
        inputs = math.prod(shapes[name.replace(".bias", ".weight")][1:])
        bits = generator.randint(2**32, size=shape, dtype=np.uint32) & (2**24 - 1)
        reach = np.float32(1 / math.sqrt(inputs))
        # One rounding, at the end, as where a processor multiplies and adds at once.
        numbers = (bits / 2**24 * np.float64(2 * reach) - np.float64(reach)).astype(np.float32)
        factor = next((factor for factor, ends in ENLARGED.items() if name.endswith(ends)), 1.0)
        weights[name] = (factor * torch.from_numpy(numbers)).to(torch.bfloat16)
    return weights
