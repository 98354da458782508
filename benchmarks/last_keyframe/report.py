"""The measured rows of the benchmark of the last keyframe alone, as a table."""

import math
from pathlib import Path

import numpy as np

from ..common.metrics import METRICS, mean_at
from ..common.report import cell, difference, interval, rows_of_common_clips, table
from ..common.rows import clip_value

MEASURES = {
    "way": "way along the heading, px",
    "early": "speed in the first 3 steps, px/frame",
    "late": "in the last 3",
    "arrow": "head first and slowing down, share of clips ↑",
    "motion_error": METRICS["motion_error"],
    "cvvdp": METRICS["cvvdp"],
}
JUDGED = ("arrow", "motion_error", "cvvdp")
STEPS = 3
"""Of so many steps at either end the speed is the mean."""


def values(row: dict) -> dict[str, float]:
    """The measures of one video; of the keyframes only the last is known, so the motion error counts the first frame.

    Speeds are means over the objects. `arrow` is 1 where they go head first and slower at the end than at the
    beginning, as all things of the small world truly do, and 0 elsewhere.
    """
    speed = np.array(row["speed"])
    early, late = mean_at(speed, slice(STEPS)), mean_at(speed, slice(-STEPS, None))
    known = math.isfinite(early) and math.isfinite(late)
    way = float(np.nansum(speed))
    return {
        "way": way,
        "early": early,
        "late": late,
        "arrow": float(way > 0 and early > late) if known else math.nan,
        "motion_error": mean_at(np.array(row["motion_error"]), slice(-1)),
        "cvvdp": clip_value(row, "cvvdp"),
    }


def result(out: Path, labels: dict[str, str], clips: list[str]) -> dict:
    """{"clips", "methods": {name: {"label", "unet_videos", measure: interval, "speed": [mean of each step]}}, "minus":
    {name: {measure: interval of the first method's value minus its}}} on the clips that all methods have."""
    rows = dict(zip(labels, rows_of_common_clips(out, "world", list(labels), clips), strict=True))
    found = {name: [values(row) for row in each] for name, each in rows.items()}
    first = found[next(iter(labels))]
    return {
        "clips": len(first),
        "methods": {
            name: {
                "label": label,
                "unet_videos": round(float(np.mean([row["unet_videos"] for row in rows[name]]))),
                **{measure: interval([each[measure] for each in found[name]]) for measure in MEASURES},
                "speed": [float(step) for step in np.nanmean([row["speed"] for row in rows[name]], axis=0)],
            }
            for name, label in labels.items()
        },
        "minus": {
            name: {
                measure: difference([each[measure] for each in first], [each[measure] for each in found[name]])
                for measure in JUDGED
            }
            for name in list(labels)[1:]
        },
    }


def markdown(result: dict) -> str:
    """A method a row; then the first method minus each, bold where the interval does not hold 0."""
    methods = result["methods"]
    rows = [
        [each["label"], f"{each['unet_videos']}", *(cell(each[measure]) for measure in MEASURES)]
        for each in methods.values()
    ]
    first = next(iter(methods.values()))["label"]
    minus = [
        [methods[name]["label"], *(cell(each[measure], signed=True) for measure in JUDGED)]
        for name, each in result["minus"].items()
    ]
    return (
        f"Means and 95 % intervals over {result['clips']} held-out clips of the small world whose objects go straight "
        f"and slow down, preset `{result['preset']}`. Speeds are along an object's heading: below 0 it moves "
        "tail first.\n\n"
        + table(["UNet videos", *MEASURES.values()], rows)
        + f"\n{first}, minus the other, clip by clip; bold where the interval does not hold 0:\n\n"
        + table([MEASURES[measure] for measure in JUDGED], minus)
    )
