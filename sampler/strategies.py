"""The ways to sample between two keyframes that a user can choose, each with its paper."""

from .choices import check_choice
from .dual_direction_settings import DualDirectionSettings
from .fusion import FUSIONS
from .order_of_work import ORDERS
from .temporal_attention import TEMPORAL_ATTENTIONS

# Yang et al., "ViBiDSampler", arXiv 2410.05651: one direction after the other in every step. CFG++ does the guiding, so
# the scale stays 1, as in their release.
_SEQUENTIAL = {"sequential": True, "guidance_min": 1.0, "guidance_max": 1.0}

STRATEGIES = {
    # Wang et al., "Generative Inbetweening", arXiv 2408.15239.
    "dual-direction": {"backward_motion": True},
    # Feng et al., "Explorative Inbetweening of Time and Space" (Time Reversal Fusion), arXiv 2403.14611: both
    # directions are the base model with its own attention.
    "time reversal": {"backward_motion": False, "temporal_attention": "own"},
    # Jeon et al., "Motion Prior Distillation", arXiv 2602.12679. Only weighted fusion ends at the last keyframe.
    "motion prior distillation": {
        "backward_motion": False,
        "temporal_attention": "own",
        "fusion": "weighted",
        "motion_prior": True,
    },
    "sequential": {**_SEQUENTIAL, "backward_motion": False, "temporal_attention": "own"},
    # The same steps with the fine-tuned weights of "Generative Inbetweening" in the backward direction.
    "sequential with backward motion": {**_SEQUENTIAL, "backward_motion": True},
}
TRAINING_FREE = [name for name, fixed in STRATEGIES.items() if not fixed["backward_motion"]]


def settings_of(
    strategy: str,
    guidance_min: float,
    guidance_max: float,
    fusion: str,
    temporal_attention: str,
    order_of_work: str,
    guidance_start: float = 0.0,
    guidance_end: float = 1.0,
) -> DualDirectionSettings:
    """The guider's settings for a strategy; what the strategy fixes overrides the user's choice.

    Raises ValueError, naming the input, for a choice that there is not.
    """
    for name, value, choices in (
        ("strategy", strategy, STRATEGIES),
        ("fusion", fusion, FUSIONS),
        ("temporal_attention", temporal_attention, TEMPORAL_ATTENTIONS),
        ("order_of_work", order_of_work, ("auto", *ORDERS)),
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
        "order_of_work": order_of_work,
        "guidance_start": guidance_start,
        "guidance_end": guidance_end,
    }
    return DualDirectionSettings(**{**chosen, **STRATEGIES[strategy]})
