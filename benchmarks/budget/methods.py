"""What the budget benchmark compares: presets, strategies, and the settings among which the presets were chosen.

Each is the inputs of Dual-Direction Settings that differ from the preset's, which is `paper` where none is named.
"""

from ...sampler.settings import PRESETS
from ..common.methods import Method
from .corrected_first import CorrectedFirst

_FEW = {"fusion": "weighted", "scheduler": "align_your_steps"}
_ANCESTRAL = {**_FEW, "sampler_name": "euler_ancestral"}
_UNGUIDED = {**_ANCESTRAL, "guidance_max": 1.0}
_GUIDED_IN_THE_MIDDLE = {"guidance_start": 0.3, "guidance_end": 0.7}
_ENDPOINT_CORRECTION = {"strategy": "endpoint-correction"}


def _steps(steps: int, reinjections: int = 0, share: float = 0.5) -> dict:
    return {"steps": steps, "reinjections": reinjections, "reinjection_share": share}


COMPARED = {
    **{name: Method(f"preset `{name}`", {"preset": name}) for name in PRESETS},
    # Its paper's own number of steps and re-injections would be less work; this is what the release spends.
    "time-reversal": Method("Time Reversal Fusion, released work", {"strategy": "time-reversal"}, None),
    "time-reversal-fast": Method(
        "Time Reversal Fusion, as `fast`", {"preset": "fast", "strategy": "time-reversal"}, None
    ),
    "alternating": Method("alternating (ViBiDSampler)", {"strategy": "alternating", **_steps(25)}, None),
    "motion-prior-distillation": Method(
        "motion prior distillation", {"strategy": "motion-prior-distillation", **_steps(25)}, None
    ),
    "motion-prior-distillation-released": Method(
        "motion prior distillation, released share",
        {"strategy": "motion-prior-distillation", "distilled_share": 0.2, **_steps(25)},
        None,
    ),
    "alternating-backward-motion": Method(
        "alternating, with backward motion", {"strategy": "alternating-backward-motion", **_steps(25)}
    ),
}

# Weighted fusion, align_your_steps and euler_ancestral, unless a label says otherwise.
CANDIDATES = {
    # 4 of 8 steps, 6 of 11, 6 of 13.
    "corrected-first-8": CorrectedFirst(
        "8 steps, the first half guided and with endpoint correction",
        {**_ANCESTRAL, "guidance_end": 0.4, **_steps(8)},
        until=0.4,
    ),
    "corrected-first-11": CorrectedFirst(
        "11 steps, no guidance, the first half with endpoint correction", {**_UNGUIDED, **_steps(11)}, until=0.45
    ),
    "corrected-first-13-1": CorrectedFirst(
        "13 steps, no guidance, 1 re-injection on half, which has endpoint correction",
        {**_UNGUIDED, **_steps(13, 1)},
        until=0.4,
    ),
    "cached-7": Method("7 steps, guidance up to 3, EasyCache", {**_ANCESTRAL, **_steps(7)}, easy_cache=0.2),
    "cached-13": Method("13 steps, guidance up to 3, EasyCache", {**_ANCESTRAL, **_steps(13)}, easy_cache=0.2),
    "cached-unguided-12": Method("12 steps, no guidance, EasyCache", {**_UNGUIDED, **_steps(12)}, easy_cache=0.2),
} | {
    name: Method(label, inputs)
    for name, label, inputs in (
        # At most 16 UNet videos.
        ("guided-4", "4 steps, guidance up to 3", {**_ANCESTRAL, **_steps(4)}),
        ("guidance-2-4", "4 steps, guidance up to 2", {**_ANCESTRAL, "guidance_max": 2.0, **_steps(4)}),
        ("guided-first-5", "5 steps, guidance in the first 3", {**_ANCESTRAL, "guidance_end": 0.5, **_steps(5)}),
        ("guided-first-6", "6 steps, guidance in the first 2", {**_ANCESTRAL, "guidance_end": 0.3, **_steps(6)}),
        ("interval-6", "6 steps, guidance in 2 of them", {**_ANCESTRAL, **_GUIDED_IN_THE_MIDDLE, **_steps(6)}),
        ("unguided-8", "8 steps, no guidance", {**_UNGUIDED, **_steps(8)}),
        ("unguided-8-euler", "the same, euler", {**_UNGUIDED, "sampler_name": "euler", **_steps(8)}),
        ("unguided-8-karras", "the same, karras", {**_UNGUIDED, "scheduler": "karras", **_steps(8)}),
        ("unguided-8-average", "the same, average fusion", {**_UNGUIDED, "fusion": "average", **_steps(8)}),
        ("unguided-8-2m", "the same, dpmpp_2m", {**_UNGUIDED, "sampler_name": "dpmpp_2m", **_steps(8)}),
        ("unguided-5-1", "5 steps, no guidance, 1 re-injection on half", {**_UNGUIDED, **_steps(5, 1)}),
        ("unguided-4-1-all", "4 steps, no guidance, 1 re-injection on all", {**_UNGUIDED, **_steps(4, 1, 1.0)}),
        ("unguided-6-1", "6 steps, no guidance, 1 re-injection on a third", {**_UNGUIDED, **_steps(6, 1, 0.34)}),
        (
            "endpoint-16",
            "endpoint correction, 16 steps, no guidance",
            {**_ENDPOINT_CORRECTION, **_UNGUIDED, **_steps(16)},
        ),
        (
            "endpoint-10-1",
            "endpoint correction, 10 steps, no guidance, 1 re-injection on half",
            {**_ENDPOINT_CORRECTION, **_UNGUIDED, **_steps(10, 1)},
        ),
        # At most 40, and what the presets were before.
        ("guided-7", "7 steps, guidance up to 3", {**_ANCESTRAL, **_steps(7)}),
        ("guided-13", "13 steps, guidance up to 3", {**_ANCESTRAL, **_steps(13)}),
        ("guided-10", "10 steps, guidance up to 3", {**_ANCESTRAL, **_steps(10)}),
        ("guidance-2-10", "10 steps, guidance up to 2", {**_ANCESTRAL, "guidance_max": 2.0, **_steps(10)}),
        ("interval-13", "13 steps, guidance in the middle", {**_ANCESTRAL, **_GUIDED_IN_THE_MIDDLE, **_steps(13)}),
        ("unguided-20", "20 steps, no guidance", {**_UNGUIDED, **_steps(20)}),
        ("unguided-20-euler", "the same, euler", {**_UNGUIDED, "sampler_name": "euler", **_steps(20)}),
        (
            "guided-first-9-1",
            "9 steps, guidance in the first 3, 1 re-injection on half",
            {**_ANCESTRAL, "guidance_end": 0.3, **_steps(9, 1)},
        ),
        ("unguided-13-1", "13 steps, no guidance, 1 re-injection on half", {**_UNGUIDED, **_steps(13, 1)}),
        (
            "endpoint-13-1",
            "endpoint correction, 13 steps, no guidance, 1 re-injection on half",
            {**_ENDPOINT_CORRECTION, **_UNGUIDED, **_steps(13, 1)},
        ),
        ("endpoint-20", "endpoint correction, 20 steps", {**_ENDPOINT_CORRECTION, **_ANCESTRAL, **_steps(20)}),
    )
}
