"""The quality benchmark's rows as quality.json and Markdown tables."""

import json
from pathlib import Path

import numpy as np

from ..common.methods import CONTROLS
from ..common.metrics import METRICS
from ..common.report import (
    WORK,
    cell,
    difference,
    difference_table,
    interval,
    minus,
    rows_of_common_clips,
    summary,
    table,
)
from ..common.rows import clip_value

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
        "training_seeds": training_seeds(out, groups, world),
        "footage": {
            "methods": summary(out, "footage", labels, footage),
            "controls": summary(out, "footage", CONTROLS, footage),
        },
    }


def training_seeds(out: Path, groups: dict[str, list[str]], clips: list[str]) -> dict[str, dict]:
    """Rotated against own maps over several trainings of the backward motion.

    `groups`: {"rotated, weighted": [method of each training]}. {group: {metric: {"trainings": [mean of each], "mean",
    "low", "high"}}}; the interval resamples clips, each clip's value being its mean over the trainings.
    """
    result = {}
    for group, names in groups.items():
        trainings = rows_of_common_clips(out, "world", names, clips)
        if not trainings[0]:
            continue
        result[group] = {}
        for metric in METRICS:
            if metric in trainings[0][0]:
                values = np.array([[clip_value(row, metric) for row in rows] for rows in trainings])
                means = [float(np.nanmean(each)) for each in values]
                result[group][metric] = {"trainings": means, **interval(values.mean(0).tolist())}
    return result


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
            f"{result['frames']} frames at {result['size']}×{result['size']}, {settings['steps']} Euler steps on "
            f"Karras noise levels, guidance {settings['guidance_min']:g} to {settings['guidance_max']:g}, "
            f"{settings['reinjections']} re-injections on the first half of the steps. Means and 95 % intervals over "
            "the clips.\n"
        ),
        f"### Small world, {result['clips']} held-out clips\n",
        _methods_table({**result["methods"], **result["controls"]}),
    ]
    if result["ours_minus"]:
        labels = {name: each["label"] for name, each in result["methods"].items()}
        differences = difference_table(result["ours_minus"], labels, METRICS)
        parts += ["### Ours minus each other method, clip by clip\n", differences]
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
    metrics = [metric for metric in ("motion_error", "cvvdp", "psnr") if any(metric in each for each in seeds.values())]
    titles = [title for metric in metrics for title in (METRICS[metric], "each training")]
    rows = []
    for group, each in seeds.items():
        trainings = {metric: ", ".join(f"{value:.2f}" for value in each[metric]["trainings"]) for metric in metrics}
        rows.append([group, *(text for metric in metrics for text in (cell(each[metric]), trainings[metric]))])
    return table(titles, rows)


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
