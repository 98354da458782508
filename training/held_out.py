"""Loss on clips that are never trained on, always with the same noise, so that its curve shows learning alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from . import draws
from .batch import BatchMaker
from .model import BackwardMotionModel


@dataclass
class HeldOut:
    """Held-out clips of a run."""

    accelerator: Accelerator
    model: BackwardMotionModel
    batches: BatchMaker
    clips: list[Path]
    seed: int

    def base_losses(self) -> dict[str, dict[str, object]]:
        """Losses before the first step: of the base weights, with rotated and with their own maps."""
        return {f"base_{maps}": self.losses(maps)["loss"] for maps in ("rotated", "own")}

    def losses(self, maps: str | None = None) -> dict[str, dict[str, object]]:
        """Losses with the model's maps or others: {"loss": {"mean", "plus_minus", "clips"}}.

        `plus_minus` is half the 95 % interval over the clips; most of it is the spread of noise levels. `clips` has
        each clip's loss in a fixed order, for the far narrower interval of a difference clip by clip.
        """
        accelerator = self.accelerator
        values = []
        with torch.no_grad():
            for number in range(accelerator.process_index, len(self.clips), accelerator.num_processes):
                batch = self.batches([self.clips[number]], draws.generator(self.seed, draws.HELD_OUT, number))
                values.append((number, self.model(**batch, maps=maps).item()))
        clips = torch.tensor([value for _, value in sorted(gather_object(values))])
        spread = clips.std().item() if len(clips) > 1 else 0.0
        return {
            "loss": {
                "mean": clips.mean().item(),
                "plus_minus": 1.96 * spread / len(clips) ** 0.5,
                "clips": clips.tolist(),
            }
        }
