"""Gaussian noise that depends on a seed and nothing else: drawn on the CPU, the global generator left alone."""

import torch

_SEEDS = 2 ** 64


def seeded_noise(shape: torch.Size | tuple[int, ...], seed: int, draw: int = 0) -> torch.Tensor:
    """N(0, 1) of the given shape, on the CPU in float32: the `draw`-th of the seed."""
    generator = torch.Generator("cpu").manual_seed((seed + draw) % _SEEDS)
    return torch.randn(shape, generator=generator)
