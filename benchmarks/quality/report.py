"""The quality benchmark's rows as quality.json and Markdown tables."""

import json
from pathlib import Path

import numpy as np

from ..common.methods import CONTROLS
from ..common.metrics import METRICS
from ..common.report import (
    WORK,
    cell,
    common_clips,
    difference,
    difference_table,
    interval,
    minus,
    summary,
    table,
)
from ..common.rows import clip_value, read_rows
from . import difficulty

TOLD = ("motion_error", "cvvdp", "psnr")
"""What is told of the trainings."""
LOSSES = {
    "fine_tuned": "fine-tuned",
    "base_rotated": "untouched, rotated maps",
    "base_own": "untouched, own maps",
}
LOSS_DIFFERENCES = {
    "minus_rotated": "fine-tuned minus untouched, rotated",
    "minus_own": "fine-tuned minus untouched, own",
}


def measured(out: Path, labels: dict[str, str], clips: dict[str, list[str]], groups: dict[str, list[str]]) -> dict:
    """What quality.json says of the videos; `clips`: {kind: names}, `groups` as for `training_seeds`."""
    world, footage = clips["world"], clips["footage"]
    differences = {name: minus(out, "world", "ours", name, world) for name in labels if name != "ours"}
    return {
        "methods": summary(out, "world", labels, world),
        "controls": summary(out, "world", CONTROLS, world),
        "ours_minus": {name: each for name, each in differences.items() if each},
        "by_difficulty": difficulty.by_difficulty(out, labels, world),
        "training_seeds": training_seeds(out, groups, world),
        "footage": {
            "methods": summary(out, "footage", labels, footage),
            "controls": summary(out, "footage", CONTROLS, footage),
        },
    }


def training_seeds(out: Path, groups: dict[str, list[str]], clips: list[str]) -> dict[str, dict]:
    """Rotated against own maps over several trainings of the backward motion.

    `groups`: {maps: [method of each training]}. {maps: {metric: {"trainings": [mean of each], "mean", "low", "high"}}};
    the interval resamples clips, each clip's value being its mean over the trainings. Where there are both kinds,
    "rotated_minus_own" has the differences of these values, {half of a difficulty or "all": {metric: interval}}.
    """
    names = [name for group in groups.values() for name in group]
    common = common_clips(out, "world", names, clips)
    if not names or not common:
        return {}
    values = {maps: _over_trainings(out, group, common) for maps, group in groups.items()}
    result: dict[str, dict] = {
        maps: {
            metric: {"trainings": np.nanmean(each, 1).tolist(), **interval(each.mean(0).tolist())}
            for metric, each in found.items()
        }
        for maps, found in values.items()
    }
    if {"rotated", "own"} <= set(values):
        parts = {"all": common} | {
            f"{name}, {half}": part
            for name, halves in difficulty.halves(out, common).items()
            for half, part in halves.items()
        }
        result["rotated_minus_own"] = {
            title: {
                metric: _rotated_minus_own(values, metric, [common.index(clip) for clip in part]) for metric in TOLD
            }
            for title, part in parts.items()
        }
    return result


def _over_trainings(out: Path, names: list[str], clips: list[str]) -> dict[str, np.ndarray]:
    """{metric: values, `[trainings, clips]`}."""
    rows = [read_rows(out, "world", name, clips) for name in names]
    known = [metric for metric in TOLD if metric in rows[0][0]]
    return {metric: np.array([[clip_value(row, metric) for row in each] for each in rows]) for metric in known}


def _rotated_minus_own(values: dict[str, dict[str, np.ndarray]], metric: str, clips: list[int]) -> dict | None:
    if metric not in values["own"]:
        return None
    rotated, own = (values[maps][metric].mean(0)[clips].tolist() for maps in ("rotated", "own"))
    return difference(rotated, own)


def held_out_losses(logs: list[Path]) -> list[dict]:
    """What each fine-tuning did to the loss on held-out reversed clips, from its log.jsonl.

    {"maps", "seed", "step", LOSSES: interval, "minus_rotated": interval of fine-tuned − untouched weights with rotated
    maps, clip by clip, "minus_own": …, "curve": [[step, mean, plus_minus]]}.
    """
    results = []
    for log in logs:
        entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        settings = next((entry["settings"] for entry in entries if entry.get("event") == "start"), {})
        base = next((entry for entry in entries if "base_rotated" in entry), None)
        after = [entry for entry in entries if entry.get("event") == "held-out" and "loss" in entry]
        if base is None or not after:
            continue
        clips = {"fine_tuned": after[-1]["loss"]["clips"]} | {
            f"base_{maps}": base[f"base_{maps}"]["clips"] for maps in ("rotated", "own")
        }
        results.append(
            {
                **{name: settings.get(name, "?") for name in ("maps", "seed")},
                "step": after[-1]["step"],
                **{name: interval(values) for name, values in clips.items()},
                **{
                    f"minus_{maps}": difference(clips["fine_tuned"], clips[f"base_{maps}"])
                    for maps in ("rotated", "own")
                },
                "curve": [[each["step"], each["loss"]["mean"], each["loss"]["plus_minus"]] for each in after],
            }
        )
    return results


def markdown(result: dict) -> str:
    """quality.md."""
    settings, footage = result["settings"], result["footage"]
    parts = [
        (
            f"{result['frames']} frames at {result['size']}×{result['size']}, {_described(settings)}, where a row does "
            "not say otherwise. Means and 95 % intervals over the clips.\n"
        ),
        f"### Small world, {result['clips']} held-out clips\n",
        _methods_table({**result["methods"], **result["controls"]}),
    ]
    if result["ours_minus"]:
        labels = {name: each["label"] for name, each in result["methods"].items()}
        differences = difference_table(result["ours_minus"], labels, METRICS)
        parts += ["### Ours minus each other method, clip by clip\n", differences]
    if result["by_difficulty"]:
        parts += ["### Small world, by difficulty\n", difficulty.markdown(result["by_difficulty"])]
    if result["training_seeds"]:
        parts += ["### Rotated against own maps, over the training seeds\n", _training_table(result["training_seeds"])]
    if result["held_out_loss"]:
        parts += ["### Loss of the backward model on held-out reversed clips\n", _loss_table(result["held_out_loss"])]
    if footage["methods"]:
        parts += [
            f"### Real footage, {result['footage_clips']} clips\n",
            _methods_table({**footage["methods"], **footage["controls"]}),
        ]
    return "\n".join(parts)


def _described(settings: dict) -> str:
    """The settings that all methods share, in words."""
    others = ", ".join(f"{name} {value:g}" for name, value in settings.items() if name != "preset")
    return f"preset `{settings['preset']}`" + (f" with {others}" if others else "")


def _methods_table(methods: dict[str, dict]) -> str:
    """Mean and 95 % interval of each metric, and the work that a clip takes."""
    metrics = [metric for metric in METRICS if any(metric in each for each in methods.values())]
    return table(
        ["clips", *(METRICS[metric] for metric in metrics), *WORK.values()],
        (
            [
                each["label"],
                str(each["clips"]),
                *(cell(each.get(metric)) for metric in metrics),
                *(f"{each[work]:g}" for work in WORK),
            ]
            for each in methods.values()
        ),
    )


def _training_table(seeds: dict[str, dict]) -> str:
    groups = {maps: each for maps, each in seeds.items() if maps != "rotated_minus_own"}
    metrics = [metric for metric in TOLD if any(metric in each for each in groups.values())]
    titles = [title for metric in metrics for title in (METRICS[metric], "each training")]
    rows = []
    for maps, each in groups.items():
        trainings = {metric: ", ".join(f"{value:.2f}" for value in each[metric]["trainings"]) for metric in metrics}
        rows.append([f"{maps} maps", *(text for metric in metrics for text in (cell(each[metric]), trainings[metric]))])
    text = table(titles, rows)
    if "rotated_minus_own" not in seeds:
        return text
    differences = [
        [title, *(cell(each[metric], signed=True) for metric in metrics)]
        for title, each in seeds["rotated_minus_own"].items()
    ]
    titles = [METRICS[metric].rstrip(" ↑↓") for metric in metrics]
    return f"{text}\nRotated minus own maps, each clip's mean over the trainings:\n\n{table(titles, differences)}"


def _loss_table(runs: list[dict]) -> str:
    return table(
        [*LOSSES.values(), *LOSS_DIFFERENCES.values()],
        (
            [
                f"{run['maps']} maps, seed {run['seed']}, step {run['step']}",
                *(cell(run[name], digits=3) for name in LOSSES),
                *(cell(run[name], True, 3) for name in LOSS_DIFFERENCES),
            ]
            for run in runs
        ),
    )
