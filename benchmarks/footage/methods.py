"""What is compared on the user's own videos: peers, presets, the other strategies, from the least work to the most.

What has no number of steps of its own in a preset or a paper does the work of the preset `balanced`.
"""

from ...sampler.method.fusion import FUSIONS
from ...sampler.settings import DEFAULTS, PRESETS, STRATEGIES, chosen_settings
from ..common.methods import PEERS, Method

_AS_BALANCED = {"preset": "balanced"}
_PAPERS_STEPS = {"steps": 25, "reinjections": 0}


def _weights(strategy: str) -> str | None:
    return "rotated" if STRATEGIES[strategy].get("backward_motion") else None


def _strategy(label: str, strategy: str, **inputs) -> Method:
    return Method(label, {"strategy": strategy, **inputs}, _weights(strategy))


def _other_fusions(preset: str) -> dict[str, Method]:
    return {
        f"{preset}-{fusion}": Method(f"preset `{preset}`, {fusion} fusion", {"preset": preset, "fusion": fusion})
        for fusion in FUSIONS
        if fusion != PRESETS[preset]["fusion"]
    }


def unet_videos(name: str) -> int:
    """How many videos a clip of a method takes through the UNet."""
    if name == "forward":
        return 2 * DEFAULTS["steps"]
    if name not in SAMPLED:
        return 0
    settings = chosen_settings(**SAMPLED[name].inputs)
    return settings.guider.videos_of_an_evaluation() * settings.sampler.sampler_steps(settings.guider)


SAMPLED = {
    **{name: Method(f"preset `{name}`", {"preset": name}, _weights(PRESETS[name]["strategy"])) for name in PRESETS},
    **_other_fusions("balanced"),
    **_other_fusions("paper"),
    "time-reversal": _strategy("Time Reversal Fusion, as `balanced`", "time-reversal", **_AS_BALANCED),
    "time-reversal-paper": _strategy("Time Reversal Fusion, as `paper`", "time-reversal"),
    "endpoint-correction": _strategy("endpoint correction, as `balanced`", "endpoint-correction", **_AS_BALANCED),
    "alternating": _strategy("alternating (ViBiDSampler)", "alternating", **_PAPERS_STEPS),
    "alternating-backward-motion": _strategy(
        "alternating, with backward motion", "alternating-backward-motion", **_PAPERS_STEPS
    ),
    "motion-prior-distillation": _strategy("motion prior distillation", "motion-prior-distillation", **_PAPERS_STEPS),
    "paper-no-fine-tuning": Method("preset `paper` without fine-tuning", {"preset": "paper"}, strength=0.0),
}
_ONLY_WHEN_ASKED = {
    *(*_other_fusions("paper"), "time-reversal-paper"),
    *("alternating-backward-motion", "paper-no-fine-tuning"),
}
"""They cost as much as `paper`, or answer a question that not everyone has."""
LABELS = {
    name: {**PEERS, **{each: SAMPLED[each].label for each in SAMPLED}}[name]
    for name in sorted((*PEERS, *SAMPLED), key=unet_videos)
}
"""{name: label} of every method, in the order of the work."""
COMPARED = [name for name in LABELS if name not in _ONLY_WHEN_ASKED]
"""Those that are run where `--methods` says nothing."""
