"""Where a method is ahead: the small world's clips, halved by how far things move, how much they turn and hide."""

from pathlib import Path

from ..common.metrics import METRICS
from ..common.report import cell, interval, minus, table
from ..common.rows import clip_value, read_rows

DIFFICULTIES = {
    "motion": "way from the first to the last frame, in lengths of the object",
    "turning": "turning between the two, in radians",
    "occlusion": "largest share of it that is hidden in between",
}
"""Of the clip's worst object each."""
HALVES = ("lower half", "upper half")
JUDGED = ("cvvdp", "motion_error")


def halves(out: Path, clips: list[str]) -> dict[str, dict[str, list[str]]]:
    """{difficulty: {half: clips}}, of equal size; nothing for less than two measured clips."""
    known = _known(out, clips)
    ordered = {name: sorted(known, key=lambda clip: known[clip][name]) for name in DIFFICULTIES if len(known) > 1}
    middle = len(known) // 2
    return {name: dict(zip(HALVES, (each[:middle], each[middle:]), strict=True)) for name, each in ordered.items()}


def _known(out: Path, clips: list[str]) -> dict[str, dict[str, float]]:
    return {clip: rows[0]["difficulty"] for clip in clips if (rows := read_rows(out, "world", "truth", [clip]))}


def by_difficulty(out: Path, labels: dict[str, str], clips: list[str], ours: str = "ours") -> dict[str, dict]:
    """{difficulty: {half: {"clips", "from", "to", "methods": {name: {"label", metric: interval}}, "ours_minus": {name:
    {metric: interval}}}}}: `ours` minus each other method clip by clip.
    """
    known = _known(out, clips)
    return {
        name: {
            half: {
                "clips": len(part),
                "from": known[part[0]][name],
                "to": known[part[-1]][name],
                "methods": _means(out, labels, part),
                "ours_minus": {
                    other: each
                    for other in labels
                    if other != ours and (each := minus(out, "world", ours, other, part))
                },
            }
            for half, part in parts.items()
        }
        for name, parts in halves(out, clips).items()
    }


def _means(out: Path, labels: dict[str, str], clips: list[str]) -> dict[str, dict]:
    means = {}
    for name, label in labels.items():
        if rows := read_rows(out, "world", name, clips):
            found = {
                metric: interval([clip_value(row, metric) for row in rows]) for metric in METRICS if metric in rows[0]
            }
            means[name] = {"label": label, **found}
    return means


def markdown(result: dict[str, dict]) -> str:
    """A table for each difficulty: a method a row, its means in both halves, and ours minus it."""
    parts = []
    for name, halves in result.items():
        metrics = [metric for metric in JUDGED if any(metric in each for each in _all_methods(halves).values())]
        spans = "; ".join(
            f"{half}: {each['clips']} clips, {each['from']:.2f} to {each['to']:.2f}" for half, each in halves.items()
        )
        titles = [f"{METRICS[metric]}, {half}" for metric in metrics for half in HALVES]
        titles += [f"ours minus it, {METRICS[metric].rstrip(' ↑↓')}, {half}" for metric in metrics for half in HALVES]
        rows = [
            [
                each["label"],
                *(cell(_at(halves[half]["methods"], method, metric)) for metric in metrics for half in HALVES),
                *(
                    cell(_at(halves[half]["ours_minus"], method, metric), signed=True)
                    for metric in metrics
                    for half in HALVES
                ),
            ]
            for method, each in _all_methods(halves).items()
        ]
        parts.append(f"By {name}: {DIFFICULTIES[name]} ({spans}).\n\n{table(titles, rows)}")
    return "\n".join(parts)


def _all_methods(halves: dict[str, dict]) -> dict[str, dict]:
    return {name: each for half in halves.values() for name, each in half["methods"].items()}


def _at(methods: dict[str, dict], name: str, metric: str) -> dict | None:
    return methods.get(name, {}).get(metric)
