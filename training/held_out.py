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

    def base_losses(self) -> dict[str, dict[str, float]]:
        """Losses before the first step: of the base weights, with rotated and with their own maps."""
        return {f"base_{maps}": self.losses(maps)["loss"] for maps in ("rotated", "own")}

    def losses(self, maps: str | None = None) -> dict[str, dict[str, float]]:
        """{"loss": mean and half width of its 95 % interval over the clips}, with the model's maps or others."""
        accelerator = self.accelerator
        values = []
        with torch.no_grad():
            for number in range(accelerator.process_index, len(self.clips), accelerator.num_processes):
                batch = self.batches([self.clips[number]], draws.generator(self.seed, draws.HELD_OUT, number))
                values += self.model(**batch, maps=maps).tolist()
        everywhere = torch.tensor(gather_object(values))
        spread = everywhere.std().item() if len(everywhere) > 1 else 0.0
        return {"loss": {"mean": everywhere.mean().item(), "plus_minus": 1.96 * spread / len(everywhere) ** 0.5}}
