"""Noise of one sampling run, from independent streams of one seed.

A run draws its first latents, re-injections, a stochastic sampler's own steps and the keyframes' augmentation, all from
one seed. Generators that start from the same number, or count up from it, repeat one another's noise, and equal noise
added twice has √2 times the level that the sampler expects. So each stream has a generator and a seed of its own. The
first latents are the host's (`comfy.sample.prepare_noise`, seeded with the run's seed itself).
"""

import hashlib
from collections.abc import Callable

import torch

DrawNoise = Callable[[torch.Size, int], torch.Tensor]


def stream_seed(seed: int, *stream: str | int) -> int:
    """The seed, 0…2⁶² − 1, of one stream of the run's `seed`: SHA-256 of both.

    `stream`: its name and, if there are several of a kind, its number. Every generator of torch takes such a seed, also
    one to which the host has added something.
    """
    digest = hashlib.sha256(",".join(map(str, (seed, *stream))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 2


def seeded_noise(shape: torch.Size | tuple[int, ...], seed: int) -> torch.Tensor:
    """N(0, 1) of the given shape in float32, drawn on the CPU, so that it is the same for every device."""
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))
