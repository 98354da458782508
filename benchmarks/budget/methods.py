"""What the budget benchmark compares: presets, strategies, and the settings among which the presets were chosen.

Each is the inputs of Dual-Direction Settings that differ from the preset's, which is `paper` where none is named.
"""

from ...sampler.settings import PRESETS
from ..common.methods import Method

_FEW = {"fusion": "weighted", "scheduler": "align_your_steps"}
_ANCESTRAL = {**_FEW, "sampler_name": "euler_ancestral"}
_ENDPOINT_CORRECTION = {"strategy": "endpoint-correction"}


def _steps(steps: int, reinjections: int = 0, share: float = 0.5) -> dict:
    return {"steps": steps, "reinjections": reinjections, "reinjection_share": share}


COMPARED = {
    **{name: Method(f"preset `{name}`", {"preset": name}) for name in PRESETS},
    # Its paper's own number of steps and re-injections would be less work; this is what the release spends.
    "time-reversal": Method("Time Reversal Fusion, released work", {"strategy": "time-reversal"}, None),
    "time-reversal-fast": Method(
        "Time Reversal Fusion, as `fast`", {"strategy": "time-reversal", **_ANCESTRAL, **_steps(7)}, None
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

# Weighted fusion, align_your_steps and euler, unless a label says otherwise.
CANDIDATES = {
    name: Method(label, inputs)
    for name, label, inputs in (
        ("euler-11-1", "11 steps, 1 re-injection on half", {**_FEW, **_steps(11, 1)}),
        ("average-11-1", "the same, average fusion", {**_FEW, "fusion": "average", **_steps(11, 1)}),
        ("karras-11-1", "the same, karras", {**_FEW, "scheduler": "karras", **_steps(11, 1)}),
        ("own-11-1", "the same, own maps", {**_FEW, "temporal_attention": "own", **_steps(11, 1)}),
        ("guidance-2-11-1", "the same, guidance up to 2", {**_FEW, "guidance_max": 2.0, **_steps(11, 1)}),
        ("guidance-4-11-1", "the same, guidance up to 4", {**_FEW, "guidance_max": 4.0, **_steps(11, 1)}),
        ("2m-11-1", "the same, dpmpp_2m", {**_FEW, "sampler_name": "dpmpp_2m", **_steps(11, 1)}),
        ("uni-pc-17", "uni_pc, 17 steps", {**_FEW, "sampler_name": "uni_pc", **_steps(17)}),
        ("cfg-pp-17", "CFG++, 17 steps", {**_FEW, "sampler_name": "euler_cfg_pp", **_steps(17)}),
        (
            "interval-14-1",
            "14 steps, 1 re-injection on half, guidance in the middle",
            {**_FEW, "guidance_start": 0.2, "guidance_end": 0.7, **_steps(14, 1)},
        ),
        (
            "unguided-17-2",
            "17 steps, 2 re-injections on half, no guidance",
            {**_FEW, "guidance_max": 1.0, **_steps(17, 2)},
        ),
        ("euler-8-2", "8 steps, 2 re-injections on half", {**_FEW, **_steps(8, 2)}),
        ("euler-5-2-all", "5 steps, 2 re-injections on all", {**_FEW, **_steps(5, 2, 1.0)}),
        ("euler-17", "17 steps", {**_FEW, **_steps(17)}),
        ("euler-7", "7 steps", {**_FEW, **_steps(7)}),
        ("lcm-8", "lcm, 8 steps", {**_FEW, "sampler_name": "lcm", **_steps(8)}),
        ("ancestral-11-1", "euler_ancestral, 11 steps, 1 re-injection on half", {**_ANCESTRAL, **_steps(11, 1)}),
        ("ancestral-8-2", "euler_ancestral, 8 steps, 2 re-injections on half", {**_ANCESTRAL, **_steps(8, 2)}),
        ("ancestral-5-1", "euler_ancestral, 5 steps, 1 re-injection on half", {**_ANCESTRAL, **_steps(5, 1)}),
        ("ancestral-17", "euler_ancestral, 17 steps", {**_ANCESTRAL, **_steps(17)}),
        ("ancestral-10", "euler_ancestral, 10 steps", {**_ANCESTRAL, **_steps(10)}),
        ("ancestral-karras-7", "euler_ancestral, 7 steps, karras", {**_ANCESTRAL, "scheduler": "karras", **_steps(7)}),
        (
            "ancestral-average-7",
            "euler_ancestral, 7 steps, average fusion",
            {**_ANCESTRAL, "fusion": "average", **_steps(7)},
        ),
        (
            "endpoint-8-2",
            "endpoint correction, euler, 8 steps, 2 re-injections on half",
            {**_ENDPOINT_CORRECTION, **_FEW, **_steps(8, 2)},
        ),
        (
            "endpoint-ancestral-8-2",
            "endpoint correction, euler_ancestral, 8 steps, 2 re-injections on half",
            {**_ENDPOINT_CORRECTION, **_ANCESTRAL, **_steps(8, 2)},
        ),
        ("endpoint-14", "endpoint correction, euler, 14 steps", {**_ENDPOINT_CORRECTION, **_FEW, **_steps(14)}),
        (
            "endpoint-unguided-28",
            "endpoint correction, euler_ancestral, 28 steps, no guidance",
            {**_ENDPOINT_CORRECTION, **_ANCESTRAL, "guidance_max": 1.0, **_steps(28)},
        ),
        (
            "endpoint-7",
            "endpoint correction, euler_ancestral, 7 steps",
            {**_ENDPOINT_CORRECTION, **_ANCESTRAL, **_steps(7)},
        ),
    )
}
