"""For the comparison with the authors' recordings: models twice as wide as the stored ones, written from a seed.

The models in reference/ are 32 channels wide: each of GroupNorm's 32 groups holds one channel there and takes out again
what the time embedding adds to it, so that their output hardly depends on noise level, fps, motion bucket and
augmentation. These have the same tensors, twice as wide. The numbers are the same on every machine: uniform draws of
NumPy's frozen generator, rounded to bfloat16.
"""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

XT, BASE, REVERSE_MOTION = "tiny-svd-xt", "tiny-svd", "tiny-svd-reverse-motion"
SMALL = Path(__file__).parents[1] / "reference"
WIDTHS = (32, 64, 128, 256)
UNET = "diffusion_pytorch_model.safetensors"
FINE_TUNED = ("temporal_transformer_blocks.0.attn1.to_v.weight", "temporal_transformer_blocks.0.attn1.to_out.0.weight")


def write_models(folder: Path) -> None:
    """Writes SVD-XT (a whole pipeline), the 14-frame base and its fine-tuned UNet as diffusers folders."""
    shutil.copytree(SMALL / XT, folder / XT, ignore=shutil.ignore_patterns("unet"))
    shapes = wide_shapes()
    base = random_weights(shapes, seed=2)
    tuned = random_weights({name: shape for name, shape in shapes.items() if name.endswith(FINE_TUNED)}, seed=3)
    for name, weights in ((XT, random_weights(shapes, seed=1)), (BASE, base), (REVERSE_MOTION, {**base, **tuned})):
        (folder / name / "unet").mkdir(parents=True)
        save_file(weights, folder / name / "unet" / UNET, {"format": "pt"})
        config = json.loads((SMALL / name / "unet" / "config.json").read_text())
        config["block_out_channels"] = [2 * width for width in config["block_out_channels"]]
        (folder / name / "unet" / "config.json").write_text(json.dumps(config, indent=2))


def wide_shapes() -> dict[str, tuple[int, ...]]:
    """{tensor of the UNet: its shape}, every width doubled but that of the image embedding."""
    with safe_open(SMALL / XT / "unet" / UNET, "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in sorted(file.keys())}
    return {
        name: tuple(
            size
            if axis and name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))
            else 2 * size
            if size in WIDTHS
            else size
            for axis, size in enumerate(shape)
        )
        for name, shape in shapes.items()
    }


def random_weights(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    """{name: bfloat16 tensor}: matrices that keep their input's scale, norms near 1, biases near 0."""
    draws = np.random.RandomState(seed)
    return {
        name: torch.from_numpy(_center(name, shape) + _reach(name, shape) * draws.uniform(-1, 1, shape)).to(
            torch.bfloat16
        )
        for name, shape in shapes.items()
    }


def _center(name: str, shape: tuple[int, ...]) -> float:
    return 1.0 if "norm" in name and name.endswith("weight") else 0.0


def _reach(name: str, shape: tuple[int, ...]) -> float:
    return math.sqrt(3 / math.prod(shape[1:])) if len(shape) > 1 else 0.2
