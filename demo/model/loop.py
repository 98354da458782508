"""The training loop that the parts of the demo model share: so many seconds, at a rate that follows the time."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import nn

from ...training.log import append_line
from .optimisers import make_optimisers

logger = logging.getLogger(__name__)

WARM_UP = 100
"""Steps in which the learning rate rises."""
_REPORT_EVERY = 50


def report(record: dict[str, object], path: Path | None) -> None:
    """Says how far a stage is, and adds a line to its log."""
    logger.info("%s", json.dumps(record))
    if path:
        append_line(path, record)


def train(
    stage: str,
    take_step: Callable[[float], dict[str, torch.Tensor]],
    parameters: Iterable[tuple[str, nn.Parameter]],
    seconds: float,
    learning_rate: float,
    log: Path | None,
    after_step: Callable[[int, float], None] = lambda step, share: None,
    optimisers: list[torch.optim.Optimizer] | None = None,
    step: int = 0,
    spent: float = 0.0,
) -> int:
    """Trains for so many seconds; returns the number of steps.

    `take_step(share)`: the numbers of one step by name, `loss` among them, at this share of the time (0 to 1);
    `after_step(step, share)` is called after each. The rate rises in `WARM_UP` steps and then falls to zero as a
    cosine. To go on with an earlier run give its `optimisers`, its `step` and the seconds it `spent`. Raises
    FloatingPointError when the loss is no longer a finite number.
    """
    named = list(parameters)
    weights = [parameter for _, parameter in named]
    optimisers = optimisers or make_optimisers(named, learning_rate)
    began, share, numbers = time.monotonic() - spent, spent / seconds, []
    while share < 1:
        rate = learning_rate * min(1, (step + 1) / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * share))
        for group in (group for optimiser in optimisers for group in optimiser.param_groups):
            group["lr"] = rate
        found = take_step(share)
        found["loss"].backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        step += 1
        numbers.append({name: value.detach() for name, value in found.items()})
        after_step(step, share)
        if step % _REPORT_EVERY == 0 or step == 1:
            _report(stage, step, numbers, rate, time.monotonic() - began, log)
            numbers = []
        share = (time.monotonic() - began) / seconds
    return step


def _report(
    stage: str, step: int, numbers: list[dict[str, torch.Tensor]], rate: float, elapsed: float, log: Path | None
) -> None:
    means = {name: float(sum(each[name] for each in numbers)) / len(numbers) for name in numbers[0]}
    if not math.isfinite(means["loss"]):
        raise FloatingPointError(f"{stage}: the loss is {means['loss']} at step {step}. Lower the learning rate.")
    report({"stage": stage, "step": step, **means, "rate": rate, "seconds": round(elapsed, 1)}, log)
