"""The training loop that the parts of the demo model share: so many steps, taken up again where they were left."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from ...training.log import append_line
from ...weights.files import save_tensors
from .optimisers import Average, make_optimisers

logger = logging.getLogger(__name__)

WARM_UP = 100
"""Steps in which the learning rate rises."""
FALL = 0.3
"""Share of the steps in which it falls; until then a training can be given more steps, and lose nothing."""
_REPORT_EVERY = 50


def report(record: dict[str, object], path: Path | None) -> None:
    """Says how far a stage is, and adds a line to its log."""
    logger.info("%s", json.dumps(record))
    if path:
        append_line(path, record)


@dataclass
class Training:
    """One stage of the training: `steps` steps at a rate that rises in `WARM_UP` and falls to zero in the last `FALL`.

    Every `save_every` seconds and at the end `checkpoint` gets weights, their average and the optimisers' state; a
    training that finds its checkpoint goes on from there. Its numbers go to `log`.
    """

    stage: str
    steps: int
    learning_rate: float
    checkpoint: Path
    log: Path | None = None
    average_decay: float = 0.0
    save_every: float = 300.0
    seed: int = 0

    def run(
        self,
        networks: nn.Module,
        take_step: Callable[[int], dict[str, torch.Tensor]],
        when_saved: Callable[[int, Average], None] = lambda step, average: None,
    ) -> Average:
        """Trains what of `networks` requires a gradient; returns the average of its weights.

        `take_step(step)`: the numbers of one step by name, `loss` among them; torch's random numbers in it are those of
        this step alone. `when_saved(step, average)` is called after each checkpoint. Raises FloatingPointError when
        the loss is no longer a finite number.
        """
        named = [(name, value) for name, value in networks.named_parameters() if value.requires_grad]
        weights = [value for _, value in named]
        optimisers = make_optimisers(named, self.learning_rate)
        average = Average(dict(named), self.average_decay)
        step = self._load(dict(named), average, optimisers) if self.checkpoint.exists() else 0
        numbers, began, saved, first = [], time.monotonic(), time.monotonic(), step
        while step < self.steps:
            torch.manual_seed((self.seed << 32) + step)
            for group in (group for optimiser in optimisers for group in optimiser.param_groups):
                group["lr"] = self._rate(step)
            found = take_step(step)
            found["loss"].backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            for optimiser in optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            average.update()
            step += 1
            numbers.append({name: value.detach() for name, value in found.items()})
            if step % _REPORT_EVERY == 0 or step in (first + 1, self.steps):
                self._report(step, numbers, (time.monotonic() - began) / (step - first))
                numbers = []
            if step == self.steps or time.monotonic() - saved > self.save_every:
                self._save(dict(named), average, optimisers, step)
                when_saved(step, average)
                saved = time.monotonic()
        return average

    def _rate(self, step: int) -> float:
        fall = min(1, (self.steps - step) / (FALL * self.steps))
        return self.learning_rate * min(1, (step + 1) / WARM_UP) * fall

    def _report(self, step: int, numbers: list[dict[str, torch.Tensor]], seconds: float) -> None:
        means = {name: float(sum(each[name] for each in numbers)) / len(numbers) for name in numbers[0]}
        if not math.isfinite(means["loss"]):
            raise FloatingPointError(f"{self.stage}: the loss is {means['loss']} at step {step}; lower its rate.")
        report({"stage": self.stage, "step": step, **means, "seconds_a_step": round(seconds, 3)}, self.log)

    def _save(self, named: dict[str, nn.Parameter], average: Average, optimisers: list, step: int) -> None:
        tensors = {f"weights.{name}": value.detach() for name, value in named.items()}
        tensors |= {f"average.{name}": value for name, value in average.values.items()}
        for number, optimiser in enumerate(optimisers):
            for index, state in optimiser.state_dict()["state"].items():
                tensors |= {f"optimiser.{number}.{index}.{name}": value for name, value in state.items()}
        tensors["step"] = torch.tensor(step)
        save_tensors(
            self.checkpoint, {name: value.cpu().contiguous() for name, value in tensors.items()}, {}, overwrite=True
        )

    @torch.no_grad()
    def _load(self, named: dict[str, nn.Parameter], average: Average, optimisers: list) -> int:
        tensors = load_file(self.checkpoint)
        for name, value in named.items():
            value.copy_(tensors[f"weights.{name}"])
            average.values[name].copy_(tensors[f"average.{name}"])
        average.steps = int(tensors["step"])
        states: list[dict[int, dict[str, torch.Tensor]]] = [{} for _ in optimisers]
        for key in (key for key in tensors if key.startswith("optimiser.")):
            _, number, index, name = key.split(".")
            states[int(number)].setdefault(int(index), {})[name] = tensors[key]
        for optimiser, state in zip(optimisers, states, strict=True):
            optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
        logger.info("%s: taken up at step %d", self.stage, average.steps)
        return average.steps
