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

_AYS = {"scheduler": "align_your_steps"}

CANDIDATES = {
    "average-50": NodeInputs("average, 50 steps, no re-injection", _steps(50)),
    "weighted-50": NodeInputs("weighted, 50 steps, no re-injection", {**_WEIGHTED, **_steps(50)}),
    "weighted-11-1": NodeInputs("weighted, karras, 11 steps, 1 re-injection on half", {**_WEIGHTED, **_steps(11, 1)}),
    "weighted-aligned-17": NodeInputs("weighted, align_your_steps, 17 steps, no re-injection",
                                      {**_WEIGHTED, **_AYS, **_steps(17)}),
    "weighted-aligned-own-11-1": NodeInputs("weighted, align_your_steps, 11 steps, 1 re-injection on half, own maps",
                                            {**_WEIGHTED, **_AYS, **_OWN, **_steps(11, 1)}),
    "weighted-interval-14-1": NodeInputs("weighted, align_your_steps, 14 steps, 1 re-injection on half, guidance in "
                                         "the middle", {**_WEIGHTED, **_AYS, **_steps(14, 1), "guidance_start": 0.2,
                                                        "guidance_end": 0.7}),
    "weighted-unguided-17-2": NodeInputs("weighted, align_your_steps, unguided, 17 steps, 2 re-injections on half",
                                         {**_WEIGHTED, **_AYS, **_UNGUIDED, **_steps(17, 2)}),
    "weighted-unguided-15": NodeInputs("weighted, align_your_steps, unguided, 15 steps, no re-injection",
                                       {**_WEIGHTED, **_AYS, **_UNGUIDED, **_steps(15)}),
    "weighted-2m-aligned-11-1": NodeInputs("weighted, align_your_steps, dpmpp_2m, 11 steps, 1 re-injection on half",
                                           {**_WEIGHTED, **_AYS, **_steps(11, 1), "sampler_name": "dpmpp_2m"}),
}
