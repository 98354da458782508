"""Measured rows as means with 95 % intervals over the clips, and as Markdown."""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from scipy.stats import bootstrap

from .metrics import METRICS, MOTION_METRICS
from .rows import PER_FRAME, clip_value, read_rows

WORK = {"evaluations": "UNet evaluations", "unet_videos": "UNet videos", "seconds": "seconds a clip"}


def interval(values: list[float]) -> dict:
    """{"mean", "low", "high", "clips"}: percentile bootstrap over the clips, NaN left out; None without any clip."""
    kept = np.array([value for value in values if not math.isnan(value)])
    if not len(kept):
        return {"mean": None, "low": None, "high": None, "clips": 0}
    low = high = kept.mean()
    if len(kept) > 1:
        rng = np.random.default_rng(0)
        low, high = bootstrap((kept,), np.mean, n_resamples=10_000, method="percentile", rng=rng).confidence_interval
    return {"mean": float(kept.mean()), "low": float(low), "high": float(high), "clips": len(kept)}


def difference(values: list[float], others: list[float]) -> dict:
    """The interval of the mean of `values − others`, clip by clip: both lists are of the same clips."""
    return interval([value - other for value, other in zip(values, others, strict=True)])


def summary(out: Path, kind: str, labels: dict[str, str], clips: list[str]) -> dict[str, dict]:
    """{method: {"label", "clips", metric: interval, work, "per_frame": {metric: [mean]}}} for `{method: label}`."""
    result = {}
    for name, label in labels.items():
        rows = read_rows(out, kind, name, clips)
        if not rows:
            continue
        metrics = [
            metric for metric in METRICS if metric in rows[0] and (kind == "world" or metric not in MOTION_METRICS)
        ]
        result[name] = {
            "label": label,
            "clips": len(rows),
            **{metric: interval([clip_value(row, metric) for row in rows]) for metric in metrics},
            **{work: round(float(np.mean([row[work] for row in rows])), 2) for work in WORK},
            "per_frame": {metric: over_frames(rows, metric) for metric in metrics if metric in PER_FRAME},
        }
    return result


def over_frames(rows: list[dict], metric: str) -> list[float | None]:
    """The mean of each frame, over the rows that have the metric; None for a frame that has none anywhere."""
    values = np.array([row[metric] for row in rows if metric in row])
    return [float(np.nanmean(column)) if np.isfinite(column).any() else None for column in values.T]


def minus(
    out: Path, kind: str, name: str, other: str, clips: list[str], metrics: Iterable[str] = METRICS
) -> dict[str, dict]:
    """{metric: interval of one method's value − another's, clip by clip, on the clips that both have}."""
    rows, others = rows_of_common_clips(out, kind, [name, other], clips)
    return {
        metric: difference(*([clip_value(row, metric) for row in each] for each in (rows, others)))
        for metric in metrics
        if rows and metric in rows[0] and metric in others[0]
    }


def rows_of_common_clips(out: Path, kind: str, names: list[str], clips: list[str]) -> list[list[dict]]:
    """The rows of each method on the clips that all of them have."""
    common = common_clips(out, kind, names, clips)
    return [read_rows(out, kind, name, common) for name in names]


def common_clips(out: Path, kind: str, names: list[str], clips: list[str]) -> list[str]:
    """The clips of which all of the methods have a row."""
    return [clip for clip in clips if all(read_rows(out, kind, name, [clip]) for name in names)]


def table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; the column of the rows' names has no title."""
    titles = ["", *titles]
    return "\n".join("| " + " | ".join(row) + " |" for row in (titles, ["---"] * len(titles), *rows)) + "\n"


def difference_table(differences: dict[str, dict], labels: dict[str, str], titles: dict[str, str]) -> str:
    """A method a row, with the intervals that `minus` found; `labels` of methods, `titles` of metrics."""
    metrics = [metric for metric in titles if any(metric in each for each in differences.values())]
    return table(
        [titles[metric].rstrip(" ↑↓") for metric in metrics],
        (
            [labels[name], *(cell(each.get(metric), signed=True) for metric in metrics)]
            for name, each in differences.items()
        ),
    )


def cell(value: dict | None, signed: bool = False, digits: int = 2) -> str:
    """Mean and interval; signed, bold where the interval does not hold 0."""
    if value is None or value["mean"] is None or math.isnan(value["mean"]):
        return "–"
    form = f"{'+' if signed else ''}.{digits}f"
    text = f"{value['mean']:{form}} [{value['low']:{form}}, {value['high']:{form}}]"
    return f"**{text}**" if signed and value["low"] * value["high"] > 0 else text
