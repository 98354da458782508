"""The ways to sample between two keyframes that a user can choose, each with its paper."""

from .choices import check_choice
from .fusion import FUSIONS
from .guider import DualDirectionSettings
from .order_of_work import ORDERS
from .temporal_attention import TEMPORAL_ATTENTIONS

STRATEGIES = {
    # Wang et al., "Generative Inbetweening", arXiv 2408.15239.
    "dual-direction": {"backward_motion": True},
    # Feng et al., "Explorative Inbetweening of Time and Space" (Time Reversal Fusion), arXiv 2403.14611: both
    # directions are the base model with its own attention.
    "time reversal": {"backward_motion": False, "temporal_attention": "own"},
}


def settings_of(strategy: str, guidance_min: float, guidance_max: float, fusion: str, temporal_attention: str,
                order_of_work: str) -> DualDirectionSettings:
    """The guider's settings for a strategy; what the strategy fixes overrides the user's choice.

    Raises ValueError, naming the input, for a choice that there is not.
    """
    for name, value, choices in (("strategy", strategy, STRATEGIES), ("fusion", fusion, FUSIONS),
                                 ("temporal_attention", temporal_attention, TEMPORAL_ATTENTIONS),
                                 ("order_of_work", order_of_work, ("auto", *ORDERS))):
        check_choice(name, value, choices)
    chosen = {"guidance_min": guidance_min, "guidance_max": guidance_max, "fusion": fusion,
              "temporal_attention": temporal_attention, "order_of_work": order_of_work}
    return DualDirectionSettings(**{**chosen, **STRATEGIES[strategy]})
