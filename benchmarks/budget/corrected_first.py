"""Endpoint correction in the first steps, both directions in the others: candidates, not in the product.

Jeon et al., "Motion Prior Distillation", arXiv 2602.12679, correct the end in the early steps only: there the way is
decided, and one direction decides it alone.
"""

from dataclasses import dataclass, replace
from functools import partial

import torch

from ...sampler import ksampler
from ...sampler.guider import DualDirectionGuider
from ..common.methods import Method, Methods, replaced


@dataclass(frozen=True)
class CorrectedFirst(Method):
    """`until`: the part of the noise range, from 0 (all noise) on, in which the end is corrected."""

    until: float = 0.0


class CorrectedFirstGuider(DualDirectionGuider):
    """GUIDER that computes the backward direction only at noise levels behind `until`."""

    def __init__(self, *arguments, until: float):
        super().__init__(*arguments)
        self._until = until

    def predict_noise(self, x, timestep, model_options=None, seed=None) -> torch.Tensor:
        """D, as by endpoint correction or by both directions."""
        chosen = self.settings
        first = float(timestep.max()) > self.inner_model.model_sampling.percent_to_sigma(self._until)
        self.settings = replace(chosen, endpoint_correction=first)
        try:
            return super().predict_noise(x, timestep, model_options, seed)
        finally:
            self.settings = chosen


class Candidates(Methods):
    """All methods, these among them."""

    def _dual_direction(self, name: str, encoded, seed: int) -> tuple[dict, int]:
        method = self.methods[name]
        if not isinstance(method, CorrectedFirst):
            return super()._dual_direction(name, encoded, seed)
        with replaced(ksampler, "DualDirectionGuider", partial(CorrectedFirstGuider, until=method.until)):
            return super()._dual_direction(name, encoded, seed)
