"""What a user chooses to sample with: the strategies, the presets, and what guider and sampler get of both."""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from ..common.errors import quoted
from .method.alternating import alternating_half_steps
from .method.attention import TEMPORAL_ATTENTIONS
from .method.fusion import FUSIONS, changes_nothing, guidance_scales
from .method.motion_prior import Distillation
from .method.reinjection import Reinjection

VIDEOS_PER_CALL = ("4", "2", "1")
"""How many of an evaluation's videos one UNet call computes, from the most memory to the least."""

# Yang et al., "ViBiDSampler", arXiv 2410.05651. CFG++ does the guiding, so the scale stays 1, as in their release.
_ALTERNATING = {"alternating": True, "guidance_min": 1.0, "guidance_max": 1.0}

STRATEGIES = {
    # Wang et al., "Generative Inbetweening", arXiv 2408.15239. As released.
    "dual-direction": {"backward_motion": True},
    # Feng et al., "Explorative Inbetweening of Time and Space" (Time Reversal Fusion), arXiv 2403.14611: both
    # directions are the base model with its own attention. method/reinjection.py names the release's settings.
    "time-reversal": {"backward_motion": False, "temporal_attention": "own"},
    # Derived from Jeon et al., who correct the end only in the early steps of an alternating sampler: see
    # motion-prior-distillation. Only weighted fusion ends at the last keyframe.
    "endpoint-correction": {
        "backward_motion": False,
        "temporal_attention": "own",
        "fusion": "weighted",
        "endpoint_correction": True,
    },
    "alternating": {**_ALTERNATING, "backward_motion": False, "temporal_attention": "own"},
    # The same steps with the fine-tuned weights of "Generative Inbetweening" in the backward direction.
    "alternating-backward-motion": {**_ALTERNATING, "backward_motion": True},
    # Jeon et al., "Motion Prior Distillation", arXiv 2602.12679.
    "motion-prior-distillation": {
        **_ALTERNATING,
        "backward_motion": False,
        "temporal_attention": "own",
        "motion_prior_distillation": True,
    },
}
"""What each strategy fixes of the guider's settings."""
TRAINING_FREE = [name for name, fixed in STRATEGIES.items() if not fixed.get("backward_motion", True)]
WITHOUT_FIRST_KEYFRAME = [
    name for name, fixed in STRATEGIES.items() if not (fixed.get("alternating") or fixed.get("endpoint_correction"))
]
"""The strategies that can do without a first keyframe, by the backward direction alone."""

# Wang et al.'s release.
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
    "jump_length": 1,
    "repeat_first_step": True,
    "noise_ratio": 1.0,
    # Not the release's; of the strategy motion-prior-distillation alone.
    "distilled_share": 0.1,
    "distillations": 3,
}
DEFAULT_PRESET = "paper"
# The sampler's own new noise in every step.
_FEW_STEPS = {
    **_PAPER,
    "fusion": "weighted",
    "sampler_name": "euler_ancestral",
    "scheduler": "align_your_steps",
    "reinjections": 0,
}
PRESETS = {
    "paper": _PAPER,
    "balanced": {**_FEW_STEPS, "guidance_max": 1.0, "steps": 13, "reinjections": 1},
    "fast": {**_FEW_STEPS, "guidance_end": 0.5, "steps": 5},
    "training-free": {**_FEW_STEPS, "steps": 14, "strategy": "endpoint-correction", "temporal_attention": "own"},
}
"""Quality against work: all but `paper` were chosen by benchmarks/budget."""
DEFAULTS = PRESETS[DEFAULT_PRESET]
"""What a node's inputs hold until someone changes them."""


@dataclass(frozen=True)
class GuiderSettings:
    """How both directions are computed and joined.

    `guidance_min`, `guidance_max`: scale at a direction's own first and last frame (`average` fusion uses their mean);
    `guidance_start`, `guidance_end`: the part of the noise range, 0 (all noise) to 1 (none), with guidance; outside it
    the unconditional half is computed only for samplers that use it (alternating and CFG++). `backward_motion`: whether
    fine-tuned weights are used; `temporal_attention`: `rotated` or `own` maps backward; `alternating`: one direction
    after the other; `endpoint_correction`: the backward direction follows from the forward one and is not computed;
    `motion_prior_distillation`: in the first `distilled_share` of the alternating steps, `distillations` times each,
    the backward direction first follows the forward one.
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
    motion_prior_distillation: bool = False
    distilled_share: float = 0.1
    distillations: int = 3

    @property
    def needs_both_keyframes(self) -> bool:
        """Whether the method takes one first and one last keyframe into the latents, beside the conditioning."""
        return self.alternating or self.endpoint_correction

    @property
    def distillation(self) -> Distillation | None:
        """That of the alternating steps, if there is one."""
        return Distillation(self.distilled_share, self.distillations) if self.motion_prior_distillation else None

    def videos_of_an_evaluation(self) -> int:
        """The largest number of videos that one evaluation takes through the UNet."""
        # Alternating sampling needs the unconditional half whatever the scale is, for CFG++.
        guided = self.alternating or not changes_nothing(
            guidance_scales(self.fusion, 2, self.guidance_min, self.guidance_max)
        )
        return (2 if guided else 1) * (1 if self.alternating or self.endpoint_correction else 2)


@dataclass(frozen=True)
class SamplerSettings:
    """The steps, the host's sampler and its noise levels, and the re-injections around it."""

    steps: int
    sampler_name: str
    scheduler: str
    reinjections: int
    reinjection_share: float
    jump_length: int = 1
    repeat_first_step: bool = True
    noise_ratio: float = 1.0

    @property
    def reinjection(self) -> Reinjection:
        """Those around the sampler."""
        return Reinjection(
            self.reinjections, self.reinjection_share, self.jump_length, self.repeat_first_step, self.noise_ratio
        )

    def sampler_steps(self, guider_settings: GuiderSettings) -> int:
        """How many sampler steps run in all, re-injections included; alternating steps are made twice."""
        if guider_settings.alternating:
            return alternating_half_steps(self.steps, guider_settings.distillation)
        return self.reinjection.sampler_steps(self.steps)


@dataclass(frozen=True)
class Settings:
    """All that a user chooses to sample with: what Dual-Direction Settings gives to a node that samples."""

    sampler: SamplerSettings
    guider: GuiderSettings


def chosen_settings(preset: str = DEFAULT_PRESET, videos_per_call: str = "auto", **chosen) -> Settings:
    """A preset with whatever of it was `chosen` otherwise.

    Raises ValueError, naming the input, for unknown choices and an empty guidance interval.
    """
    check_choice("preset", preset, PRESETS)
    values = {**PRESETS[preset], **chosen}
    sampler = {field.name: values.pop(field.name) for field in fields(SamplerSettings)}
    return Settings(SamplerSettings(**sampler), guider_settings(videos_per_call=videos_per_call, **values))


def guider_settings(strategy: str, **chosen) -> GuiderSettings:
    """The settings for a strategy; what it fixes overrides the user's choice. `chosen`: other fields of GuiderSettings.

    Raises ValueError, naming the input, for unknown choices and an empty guidance interval.
    """
    check_choice("strategy", strategy, STRATEGIES)
    settings = GuiderSettings(**chosen)
    check_choice("fusion", settings.fusion, FUSIONS)
    check_choice("temporal_attention", settings.temporal_attention, TEMPORAL_ATTENTIONS)
    check_choice("videos_per_call", settings.videos_per_call, ("auto", *VIDEOS_PER_CALL))
    if settings.guidance_start > settings.guidance_end:
        raise ValueError(
            f"guidance_start: expected at most guidance_end, {settings.guidance_end:g}, found "
            f"{settings.guidance_start:g}. Lower it, or raise guidance_end."
        )
    return replace(settings, **STRATEGIES[strategy])


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raises ValueError, naming the input, when `value` is none of the choices.

    ComfyUI 0.3.75 leaves this to the nodes.
    """
    choices = list(choices)
    if value not in choices:
        raise ValueError(
            f"{name}: expected one of {', '.join(choices)}, found {quoted(value)}. Choose one from the list."
        )
