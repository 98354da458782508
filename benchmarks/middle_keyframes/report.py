"""The rows as middle_keyframes.json and as tables: what is measured between the keyframes and at the middle one."""

import math
from pathlib import Path

import numpy as np

from ...demo.world.tracker import seen, track
from ..common.clips import HeldOutClip
from ..common.metrics import mean_at
from ..common.report import cell, difference, interval, table
from ..common.rows import read_frames, read_rows
from ..sequence.segments import speed_jump
from .methods import FALLOFFS, STRATEGIES, WAYS

MEASURES = {
    "cvvdp": "ColorVideoVDP, JOD ↑",
    "motion_error": "motion error between keyframes, px ↓",
    "ghosting": "ghosting between keyframes ↓",
    "jump": "jump of speed at the middle, px/frame ↓",
    "middle": "PSNR of the middle frame, dB ↑",
}
JUDGED = ("cvvdp", "motion_error", "jump")


def result(out: Path, labels: dict[str, str], clips: list[HeldOutClip]) -> dict:
    """{"clips", "methods": {method: {"label", measure: interval, "minus": {other way: {measure: interval}}}}}."""
    values = {name: _values(out, name, clips) for name in ["reconstruction", *labels]}
    methods = {
        name: {"label": labels.get(name, "the true frames through the VAE")}
        | {measure: interval(each[measure]) for measure in MEASURES}
        for name, each in values.items()
    }
    for strategy in STRATEGIES:
        middle = values.get(f"{strategy}-middle")
        for other in ("ends", "segments", *FALLOFFS):
            if middle is not None and f"{strategy}-{other}" in values:
                minus = {
                    measure: difference(middle[measure], values[f"{strategy}-{other}"][measure]) for measure in MEASURES
                }
                methods[f"{strategy}-middle"].setdefault("minus", {})[other] = minus
    return {"clips": len(clips), "methods": methods}


def _values(out: Path, name: str, clips: list[HeldOutClip]) -> dict[str, list[float]]:
    """{measure: its value of each clip}, NaN where it cannot be had or the clip is missing."""
    found: dict[str, list[float]] = {measure: [] for measure in MEASURES}
    for clip in clips:
        rows = read_rows(out, "world", name, [clip.name])
        if not rows:
            for measure in MEASURES:
                found[measure].append(math.nan)
            continue
        row = rows[0]
        last = len(clip.truth) - 1
        between = [frame for frame in range(1, last) if frame != last // 2]
        found["cvvdp"].append(row.get("cvvdp", math.nan))
        for measure in ("motion_error", "ghosting"):
            found[measure].append(mean_at(np.array(row[measure]), between))
        found["middle"].append(row["psnr"][last // 2])
        places = seen(track(read_frames(out, "world", name, clip.name), clip.world).centre, clip.world).numpy()
        found["jump"].append(speed_jump(places, last // 2, 2))
    return found


def markdown(result: dict) -> str:
    """middle_keyframes.md: each strategy's three ways, then the falloffs."""
    methods = result["methods"]
    ways = [f"{strategy}-{way}" for strategy in STRATEGIES for way in WAYS]
    falloffs = [f"{strategy}-{name}" for strategy in STRATEGIES for name in FALLOFFS]
    text = (
        f"Means and 95 % intervals over {result['clips']} held-out clips of {result['frames']} frames; minus: clip by "
        "clip, bold where the interval does not hold 0.\n"
    )
    for names in (["reconstruction", *ways], falloffs):
        shown = [methods[name] for name in names if name in methods]
        if shown:
            text += "\n" + table(
                MEASURES.values(),
                ([_label(each, result["clips"]), *(cell(each[name]) for name in MEASURES)] for each in shown),
            )
    rows = [
        [f"{strategy}, minus {WAYS.get(other) or FALLOFFS[other][0]}", *(cell(each[m], signed=True) for m in MEASURES)]
        for strategy in STRATEGIES
        for other, each in methods.get(f"{strategy}-middle", {}).get("minus", {}).items()
    ]
    return text + ("\n" + table(MEASURES.values(), rows) if rows else "")


def _label(method: dict, clips: int) -> str:
    measured = method["middle"]["clips"]
    return method["label"] + (f", {measured} clips" if measured != clips else "")
