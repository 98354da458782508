"""How the demo model's weights are changed: Muon for matrices and convolutions, AdamW for the rest, and an average."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import nn

_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def orthogonalised(matrices: torch.Tensor) -> torch.Tensor:
    """The nearest matrices with singular values near 1, `[n, rows, columns]`: Newton-Schulz in bfloat16.

    Jordan et al., Muon (2024): five rounds of a X + b (X Xᵀ) X + c (X Xᵀ)² X.
    """
    a, b, c = _QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Muon with a step of AdamW's size (Liu et al., arXiv 2502.16982), for convolutions too.

    A weight counts as the matrix `[out, in · kernel]`. Matrices of one shape are orthogonalised together: a network of
    hundreds of small ones would else be bound by the launching of kernels. Weights without a gradient are left alone.
    """

    def __init__(
        self, weights: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 1e-3
    ) -> None:
        super().__init__(list(weights), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step with the weights' gradients."""
        for group in self.param_groups:
            same_shape = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    same_shape[weight.flatten(1).shape].append(weight)
            for shape, weights in same_shape.items():
                self._step(weights, shape, **{key: group[key] for key in ("lr", "momentum", "weight_decay")})

    def _step(self, weights: list[nn.Parameter], shape: torch.Size, lr: float, momentum: float, weight_decay: float):
        gradients = torch.stack([weight.grad.flatten(1) for weight in weights])
        state = self.state[weights[0]]
        if not state:
            state["momentum"] = torch.zeros_like(gradients)
        average = state["momentum"].lerp_(gradients, 1 - momentum)
        change = orthogonalised(gradients.lerp(average, momentum)) * (-0.2 * lr * math.sqrt(max(shape)))
        torch._foreach_mul_(weights, 1 - lr * weight_decay)
        torch._foreach_add_(weights, [part.view(weight.shape) for part, weight in zip(change, weights, strict=True)])


def make_optimisers(
    parameters: Iterable[tuple[str, nn.Parameter]], learning_rate: float
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices and convolutions inside the blocks, AdamW for the rest; `parameters` with their names."""
    matrices, rest = [], []
    for name, parameter in parameters:
        inside = parameter.ndim > 1 and "_block" in name
        (matrices if inside else rest).append(parameter)
    adam = torch.optim.AdamW(rest, lr=learning_rate, betas=(0.9, 0.99), weight_decay=1e-3)
    return [Muon(matrices, learning_rate), adam] if matrices else [adam]


class Average:
    """An exponential moving average of weights, `values` by name; with a decay of 0 it is the weights themselves."""

    def __init__(self, weights: dict[str, nn.Parameter], decay: float) -> None:
        self.decay, self.steps = decay, 0
        self._weights = {name: value.detach() for name, value in weights.items()}
        self.values = {name: value.clone() for name, value in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Moves towards the network's weights; the first steps, which know nothing, weigh little."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(list(self.values.values()), list(self._weights.values()), 1 - decay)
