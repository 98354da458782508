"""What a user chooses about the two directions; `strategies.py` makes it of a strategy and the nodes' inputs.

The ways to sample between two keyframes that a user can choose, each with its paper.

Presets of the Dual-Direction KSampler: how much quality for how many UNet videos.

`paper` is what Wang et al. released (arXiv 2408.15239). The others were chosen by `benchmarks/budget.py`.

A check that the host leaves to the nodes: ComfyUI 0.3.75 hands on list choices that are not in the list.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ..common.errors import quoted
from .method.attention import TEMPORAL_ATTENTIONS
from .method.fusion import FUSIONS, changes_nothing, guidance_scales
from .method.reinjection import steps_with_reinjections

VIDEOS_PER_CALL = ("4", "2", "1")
"""How many of an evaluation's videos one UNet call computes, from the most memory to the least."""


@dataclass(frozen=True)
class GuiderSettings:
    """The guider's settings.

    `guidance_min`, `guidance_max`: scale at a direction's own first and last frame (`average` fusion uses their mean);
    `guidance_start`, `guidance_end`: the part of the noise range, 0 (all noise) to 1 (none), with guidance; outside it
    the unconditional half is not computed. `backward_motion`: whether fine-tuned weights are used;
    `temporal_attention`: `rotated` or `own` maps backward; `alternating`: one direction after the other;
    `endpoint_correction`: the backward direction follows from the forward one and is not computed.
    """

    guidance_min: float = 1.0
    guidance_max: float = 3.0
    fusion: str = "average"
    videos_per_call: str = "auto"
    backward_motion: bool = True
    temporal_attention: str = "rotated"
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    alternating: bool = False
    endpoint_correction: bool = False

    def videos_of_an_evaluation(self) -> int:
        """The largest number of videos that one evaluation takes through the UNet."""
        # Alternating sampling needs the unconditional half whatever the scale is, for CFG++.
        guided = self.alternating or not changes_nothing(
            guidance_scales(self.fusion, 2, self.guidance_min, self.guidance_max)
        )
        return (2 if guided else 1) * (1 if self.alternating or self.endpoint_correction else 2)


# Yang et al., "ViBiDSampler", arXiv 2410.05651: one direction after the other in every step. CFG++ does the guiding, so
# the scale stays 1, as in their release.
_ALTERNATING = {"alternating": True, "guidance_min": 1.0, "guidance_max": 1.0}

STRATEGIES = {
    # Wang et al., "Generative Inbetweening", arXiv 2408.15239.
    "dual-direction": {"backward_motion": True},
    # Feng et al., "Explorative Inbetweening of Time and Space" (Time Reversal Fusion), arXiv 2403.14611: both
    # directions are the base model with its own attention.
    "time-reversal": {"backward_motion": False, "temporal_attention": "own"},
    # Jeon et al., "Motion Prior Distillation", arXiv 2602.12679. Only weighted fusion ends at the last keyframe.
    "endpoint-correction": {
        "backward_motion": False,
        "temporal_attention": "own",
        "fusion": "weighted",
        "endpoint_correction": True,
    },
    "alternating": {**_ALTERNATING, "backward_motion": False, "temporal_attention": "own"},
    # The same steps with the fine-tuned weights of "Generative Inbetweening" in the backward direction.
    "alternating-backward-motion": {**_ALTERNATING, "backward_motion": True},
}
TRAINING_FREE = [name for name, fixed in STRATEGIES.items() if not fixed["backward_motion"]]


def settings_of(
    strategy: str,
    guidance_min: float,
    guidance_max: float,
    fusion: str,
    temporal_attention: str,
    videos_per_call: str,
    guidance_start: float = 0.0,
    guidance_end: float = 1.0,
) -> GuiderSettings:
    """The guider's settings for a strategy; what the strategy fixes overrides the user's choice.

    Raises ValueError, naming the input, for a choice that there is not.
    """
    for name, value, choices in (
        ("strategy", strategy, STRATEGIES),
        ("fusion", fusion, FUSIONS),
        ("temporal_attention", temporal_attention, TEMPORAL_ATTENTIONS),
        ("videos_per_call", videos_per_call, ("auto", *VIDEOS_PER_CALL)),
    ):
        check_choice(name, value, choices)
    if guidance_start > guidance_end:
        raise ValueError(
            f"guidance_start: expected at most guidance_end, {guidance_end:g}, found {guidance_start:g}. "
            "Lower it, or raise guidance_end."
        )
    chosen = {
        "guidance_min": guidance_min,
        "guidance_max": guidance_max,
        "fusion": fusion,
        "temporal_attention": temporal_attention,
        "videos_per_call": videos_per_call,
        "guidance_start": guidance_start,
        "guidance_end": guidance_end,
    }
    return GuiderSettings(**{**chosen, **STRATEGIES[strategy]})


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
    "training-free": {**_FEW_STEPS, "steps": 14, "strategy": "endpoint-correction", "temporal_attention": "own"},
}


@dataclass(frozen=True)
class SamplerSettings:
    """The host's sampler and the re-injections around it."""

    steps: int
    sampler_name: str
    scheduler: str
    reinjections: int
    reinjection_share: float

    def sampler_steps(self, directions: GuiderSettings) -> int:
        """How many sampler steps run in all, re-injections included; sequential steps are made twice."""
        if directions.alternating:
            return 2 * self.steps
        return steps_with_reinjections(self.steps, self.reinjections, self.reinjection_share)


def chosen_settings(preset: str, videos_per_call: str, **chosen) -> tuple[SamplerSettings, GuiderSettings]:
    """What to sample with, from a node's inputs; `chosen` holds every name of DEFAULTS.

    Raises ValueError, naming the input, for choices that there are not or that contradict the preset.
    """
    values = with_preset(preset, chosen)
    sampler = {name: values.pop(name) for name in SamplerSettings.__dataclass_fields__}
    return SamplerSettings(**sampler), settings_of(videos_per_call=videos_per_call, **values)


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


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raises ValueError, naming the input, when `value` is none of the choices."""
    choices = list(choices)
    if value not in choices:
        raise ValueError(
            f"{name}: expected one of {', '.join(choices)}, found {quoted(value)}. Choose one from the list."
        )
