"""What the budget benchmark compares: presets, strategies, and the settings among which the presets were chosen.

Each is the Dual-Direction KSampler's inputs that differ from its defaults, which are the released settings.
"""

from generative_inbetweening.sampler.presets import PRESETS

from .quality_methods import NodeInputs

_WEIGHTED = {"fusion": "weighted"}
_UNGUIDED = {"guidance_min": 1.0, "guidance_max": 1.0}
_OWN = {"temporal_attention": "own"}


def _steps(steps: int, reinjections: int = 0, share: float = 0.5) -> dict:
    return {"steps": steps, "reinjections": reinjections, "reinjection_share": share}


COMPARED = {
    **{name: NodeInputs(f"preset `{name}`", {"preset": name}) for name in PRESETS},
    # Its paper's own number of steps and re-injections would be less work; this is what the release spends.
    "time-reversal": NodeInputs("Time Reversal Fusion, released work", {"strategy": "time reversal"}, None),
    "sequential": NodeInputs("sequential (ViBiDSampler)", {"strategy": "sequential", **_steps(25)}, None),
    "sequential-backward-motion": NodeInputs("sequential with backward motion, rotated maps",
                                             {"strategy": "sequential with backward motion", **_steps(25)}),
}

CANDIDATES = {
    # Work: re-injections and steps.
    "average-no-reinjection": NodeInputs("average, 50 steps, no re-injection", _steps(50)),
    "weighted-no-reinjection": NodeInputs("weighted, 50 steps, no re-injection", {**_WEIGHTED, **_steps(50)}),
    "weighted-12-1": NodeInputs("weighted, 11 steps, 1 re-injection on half", {**_WEIGHTED, **_steps(12, 1)}),
    "weighted-unguided-12-4": NodeInputs("weighted, unguided, 12 steps, 4 re-injections on half",
                                         {**_WEIGHTED, **_UNGUIDED, **_steps(11, 4)}),
    "weighted-unguided-18-2": NodeInputs("weighted, unguided, 18 steps, 2 re-injections on half",
                                         {**_WEIGHTED, **_UNGUIDED, **_steps(17, 2)}),
    "weighted-unguided-15-2": NodeInputs("weighted, unguided, 35 steps, no re-injection",
                                         {**_WEIGHTED, **_UNGUIDED, **_steps(35)}),
}
