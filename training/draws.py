"""Every random number of a run, as a function of its seed and its place in the run.

Nothing is drawn from a generator that lives on: clip order, noise and noise levels of a forward pass follow from
(seed, number of the pass) alone. So a resumed run needs no generator states, and one device with two accumulated
passes sees the same numbers as two devices with one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

ORDER, STEP, HELD_OUT = 0, 1, 2


def generator(seed: int, *place: int) -> torch.Generator:
    """A CPU generator for one place in a run."""
    state = np.random.SeedSequence([seed, *place]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


@lru_cache(maxsize=4)
def _shuffled(seed: int, clips: int, epoch: int) -> list[int]:
    return torch.randperm(clips, generator=generator(seed, ORDER, epoch)).tolist()


def clip_numbers(seed: int, clips: int, number: int, batch_size: int) -> list[int]:
    """The clips of forward pass `number`: the next `batch_size` of an endless run of shuffled epochs."""
    positions = range(number * batch_size, (number + 1) * batch_size)
    return [_shuffled(seed, clips, position // clips)[position % clips] for position in positions]


@dataclass(frozen=True)
class Draws:
    """Random numbers of one forward pass: noise level [batch], and standard normal noise by its use."""

    sigma: torch.Tensor
    noise: torch.Tensor
    latents: torch.Tensor
    augmentation: torch.Tensor


def draw(source: torch.Generator, latents: torch.Size, images: torch.Size, mean: float, std: float) -> Draws:
    """Draws for latents [batch, frames, 4, h, w] and keyframes [batch, 3, height, width]; sigma is lognormal.

    `augmentation` is one draw for both keyframes of a clip.
    """
    return Draws(
        sigma=torch.exp(mean + std * torch.randn(latents[0], generator=source)),
        noise=torch.randn(latents, generator=source),
        latents=torch.randn(latents, generator=source),
        augmentation=torch.randn(images, generator=source),
    )
