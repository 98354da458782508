"""Presets of the Dual-Direction KSampler: how much quality for how many UNet videos.

`paper` is what Wang et al. released (arXiv 2408.15239). The others were chosen by `benchmarks/budget.py`.
"""

from dataclasses import dataclass

from .choices import check_choice
from .dual_direction_settings import DualDirectionSettings
from .reinjection import sampler_passes
from .strategies import settings_of

CUSTOM = "custom"
_PAPER = {
    "strategy": "dual-direction",
    "temporal_attention": "rotated",
    "fusion": "average",
    "guidance_min": 1.0,
    "guidance_max": 3.0,
    "guidance_start": 0.0,
    "guidance_end": 1.0,
    "steps": 50,
    "sampler_name": "euler",
    "scheduler": "karras",
    "reinjections": 5,
    "reinjection_share": 0.5,
}
# What the inputs hold as long as nobody touches them.
DEFAULTS = _PAPER
# The sampler's own new noise in every step; at equal work re-injections gave nothing beside it (benchmarks/results).
_FEW_STEPS = {
    **_PAPER,
    "fusion": "weighted",
    "sampler_name": "euler_ancestral",
    "scheduler": "align_your_steps",
    "reinjections": 0,
}
PRESETS = {
    "paper": _PAPER,
    "balanced": {**_FEW_STEPS, "steps": 13},
    "fast": {**_FEW_STEPS, "steps": 7},
    "training-free": {**_FEW_STEPS, "steps": 14, "strategy": "motion prior distillation", "temporal_attention": "own"},
}


@dataclass(frozen=True)
class SamplerSettings:
    """The host's sampler and the re-injections around it."""

    steps: int
    sampler_name: str
    scheduler: str
    reinjections: int
    reinjection_share: float

    def passes(self, directions: DualDirectionSettings) -> int:
        """How many sampler steps run in all, re-injections included; sequential steps are made twice."""
        if directions.sequential:
            return 2 * self.steps
        return sampler_passes(self.steps, self.reinjections, self.reinjection_share)


def chosen_settings(preset: str, order_of_work: str, **chosen) -> tuple[SamplerSettings, DualDirectionSettings]:
    """What to sample with, from a node's inputs; `chosen` holds every name of DEFAULTS.

    Raises ValueError, naming the input, for choices that there are not or that contradict the preset.
    """
    values = with_preset(preset, chosen)
    sampler = {name: values.pop(name) for name in SamplerSettings.__dataclass_fields__}
    return SamplerSettings(**sampler), settings_of(order_of_work=order_of_work, **values)


def with_preset(preset: str, chosen: dict) -> dict:
    """The settings to sample with: `chosen` under `custom`, else the preset's.

    Raises ValueError for an unknown preset, or for a setting that was changed by hand to something else than the preset
    has.
    """
    check_choice("preset", preset, (CUSTOM, *PRESETS))
    if preset == CUSTOM:
        return dict(chosen)
    settings = PRESETS[preset]
    for name, value in settings.items():
        if chosen[name] not in (value, DEFAULTS[name]):
            raise ValueError(
                f"preset: {preset} sets {name} to {value}, but {name} was changed to {chosen[name]}. "
                f"Choose the preset {CUSTOM} to use your own settings, or put {name} back to "
                f"{DEFAULTS[name]}."
            )
    return {**chosen, **settings}
