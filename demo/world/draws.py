"""Random numbers that are functions of a seed: the same on every device, for one clip or for thousands at once."""

from __future__ import annotations

import torch

_GOLDEN = -0x61C8864680B583EB
_MIXERS = ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15))


def _shifted(bits: torch.Tensor, by: int) -> torch.Tensor:
    """`bits` moved right, zeros coming in from the left."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _mixed(bits: torch.Tensor) -> torch.Tensor:
    """Whole numbers in, unrelated whole numbers out: the last step of SplitMix64 (Steele et al. 2014)."""
    for by, factor in _MIXERS:
        bits = (bits ^ _shifted(bits, by)) * factor
    return bits ^ _shifted(bits, 31)


class Draws:
    """Random numbers for `n` clips. Each is a hash of the clip's seed and of how many were drawn before it."""

    def __init__(self, seeds: torch.Tensor, stream: int) -> None:
        """`seeds`: whole numbers, `[n]`; `stream`: clips of different streams share no numbers."""
        self._state = _mixed(_mixed(seeds.long() + 1) + seeds.new_tensor(stream + 1) * _GOLDEN)
        self._used = 0

    def uniform(self, low: float = 0.0, high: float = 1.0, shape: tuple[int, ...] = ()) -> torch.Tensor:
        """Numbers from `low` to `high`, `[n, *shape]`."""
        count = int(torch.Size(shape).numel())
        places = torch.arange(self._used + 1, self._used + count + 1, device=self._state.device)
        self._used += count
        bits = _mixed(self._state[:, None] + places * _GOLDEN)
        share = _shifted(bits, 40).float() / 2**24
        return (low + (high - low) * share).unflatten(1, shape) if shape else (low + (high - low) * share)[:, 0]

    def integer(self, count: int, shape: tuple[int, ...] = ()) -> torch.Tensor:
        """Whole numbers from 0 to `count` − 1, `[n, *shape]`."""
        return (self.uniform(0, count, shape).long()).clamp(max=count - 1)

    def chance(self, share: float, shape: tuple[int, ...] = ()) -> torch.Tensor:
        """True in so large a share of the cases, `[n, *shape]`."""
        return self.uniform(shape=shape) < share

    def sign(self, shape: tuple[int, ...] = ()) -> torch.Tensor:
        """−1 or 1, `[n, *shape]`."""
        return self.chance(0.5, shape).float() * 2 - 1
