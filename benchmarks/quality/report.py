"""Turns the measured rows into means with 95 % intervals: quality.json and a Markdown table."""

import math
from pathlib import Path

import numpy as np

from ..common.bootstrap import difference, interval
from ..common.metrics import HIGHER_IS_BETTER
from .rows import PER_FRAME, clip_value, read_rows

TITLES = {
    "psnr": "PSNR, dB ↑",
    "ssim": "SSIM ↑",
    "cvvdp": "ColorVideoVDP, JOD ↑",
    "keyframe_error": "keyframe error, levels ↓",
    "motion_error": "motion error, px ↓",
    "ghosting": "ghosting ↓",
}
WORK = {"evaluations": "UNet evaluations", "unet_videos": "UNet videos", "seconds": "seconds a clip"}
MOTION_METRICS = ("motion_error", "ghosting")


def summary(out: Path, kind: str, names: list[str], clips: list[str], labels: dict[str, str]) -> dict[str, dict]:
    """{method: {"label", metric: {"mean", "low", "high", "clips"}, work, "per_frame": {metric: [mean]}}}."""
    metrics = [name for name in HIGHER_IS_BETTER if kind == "world" or name not in MOTION_METRICS]
    result = {}
    for name in names:
        rows = read_rows(out, kind, name, clips)
        if not rows:
            continue
        measured = [metric for metric in metrics if metric in rows[0]]
        result[name] = {
            "label": labels[name],
            "clips": len(rows),
            **{metric: interval([clip_value(row, metric) for row in rows]) for metric in measured},
            **{work: round(float(np.mean([row[work] for row in rows])), 2) for work in WORK},
            "per_frame": {metric: _over_frames(rows, metric) for metric in measured if metric in PER_FRAME},
        }
    return result


def _over_frames(rows: list[dict], metric: str) -> list[float | None]:
    values = np.array([row[metric] for row in rows])
    return [float(np.nanmean(column)) if np.isfinite(column).any() else None for column in values.T]


def ours_minus_others(out: Path, kind: str, names: list[str], clips: list[str]) -> dict[str, dict]:
    """{method: {metric: interval of ours − the method's}}."""
    differences = {name: minus(out, kind, "ours", name, clips) for name in names if name != "ours"}
    return {name: each for name, each in differences.items() if each}


def minus(out: Path, kind: str, name: str, other: str, clips: list[str]) -> dict[str, dict]:
    """{metric: interval of one method's value − another's, clip by clip, on the clips that both have}."""
    common = _common_clips(out, kind, [name, other], clips)
    rows, others = (read_rows(out, kind, each, common) for each in (name, other))
    return {
        metric: difference(*([clip_value(row, metric) for row in each] for each in (rows, others)))
        for metric in HIGHER_IS_BETTER
        if common and metric in rows[0]
    }


def _common_clips(out: Path, kind: str, names: list[str], clips: list[str]) -> list[str]:
    return [clip for clip in clips if all(read_rows(out, kind, name, [clip]) for name in names)]


def training_seeds(out: Path, groups: dict[str, list[str]], clips: list[str]) -> dict[str, dict]:
    """Rotated against own maps over several trainings of the backward motion.

    `groups`: {"rotated weighted": [method of each training]}. {group: {metric: {"trainings": [mean of each], "mean",
    "low", "high"}}}; the interval resamples clips, each clip's value being its mean over the trainings.
    """
    result = {}
    for group, names in groups.items():
        # All trainings on the same clips, also where one of them has been run on more.
        common = _common_clips(out, "world", names, clips)
        trainings = [read_rows(out, "world", name, common) for name in names]
        if not common:
            continue
        result[group] = {}
        for metric in HIGHER_IS_BETTER:
            if metric in trainings[0][0]:
                values = np.array([[clip_value(row, metric) for row in rows] for rows in trainings])
                result[group][metric] = {
                    "trainings": [float(np.nanmean(each)) for each in values],
                    **interval(values.mean(0).tolist()),
                }
    return result


def markdown(title: str, methods: dict[str, dict]) -> str:
    """A table: a method a row, mean and 95 % interval of each metric, and the work that a clip takes."""
    metrics = [metric for metric in TITLES if any(metric in each for each in methods.values())]
    titles = ["clips", *(TITLES[metric] for metric in metrics), *WORK.values()]
    lines = [f"### {title}", "", "| | " + " | ".join(titles) + " |", "|---" * (1 + len(titles)) + "|"]
    for each in methods.values():
        cells = [
            str(each["clips"]),
            *(cell(each.get(metric)) for metric in metrics),
            *(f"{each[work]:g}" for work in WORK),
        ]
        lines.append(f"| {each['label']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def difference_table(methods: dict[str, dict], differences: dict[str, dict]) -> str:
    """A table of ours minus each other method; bold where the interval does not hold 0."""
    metrics = [metric for metric in TITLES if any(metric in each for each in differences.values())]
    lines = [
        "### Ours minus each other method, clip by clip",
        "",
        "| | " + " | ".join(TITLES[metric].rstrip(" ↑↓") for metric in metrics) + " |",
        "|---" * (1 + len(metrics)) + "|",
    ]
    for name, each in differences.items():
        cells = [cell(each.get(metric), signed=True) for metric in metrics]
        lines.append(f"| {methods[name]['label']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def training_table(seeds: dict[str, dict]) -> str:
    """A table of the trainings: maps and fusion a row."""
    metrics = [metric for metric in ("motion_error", "cvvdp", "psnr") if any(metric in each for each in seeds.values())]
    lines = [
        "### Rotated against own maps, over the training seeds",
        "",
        "| maps, fusion | " + " | ".join(f"{TITLES[metric]} | each training" for metric in metrics) + " |",
        "|---" * (1 + 2 * len(metrics)) + "|",
    ]
    for group, each in seeds.items():
        cells = [
            f"{cell(each[metric])} | {', '.join(f'{value:.2f}' for value in each[metric]['trainings'])}"
            for metric in metrics
        ]
        lines.append(f"| {group} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def cell(value: dict | None, signed: bool = False, digits: int = 2) -> str:
    """Mean and interval; signed, bold where the interval does not hold 0."""
    if value is None or value["mean"] is None or math.isnan(value["mean"]):
        return "–"
    form = f"{'+' if signed else ''}.{digits}f"
    text = f"{value['mean']:{form}} [{value['low']:{form}}, {value['high']:{form}}]"
    return f"**{text}**" if signed and value["low"] * value["high"] > 0 else text
