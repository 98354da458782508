"""Measured rows of real footage as quality.json and Markdown."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from ...common.live_bytes import GIB
from ..common.methods import CONTROLS
from ..common.report import cell, difference_table, interval, minus, over_frames, table
from ..common.rows import PER_FRAME, clip_value, read_rows
from .measures import METRICS
from .methods import LABELS
from .networks import frechet_distance
from .selection import Selection

KIND = "footage"
FRECHET = {"fid": "FID ↓", "fvd": "FVD ↓"}
OURS = ("balanced", "fast", "paper", "balanced-average")
"""The first of them that was run is the one from which differences are taken."""
ENOUGH_FOR_HALVES = 8


def features_path(out: Path, name: str, clip: str) -> Path:
    """Where a video's features for FID and FVD are."""
    return out / "features" / KIND / name / f"{clip}.safetensors"


def result(out: Path, names: Sequence[str], clips: list[str], networks: Sequence[str]) -> dict:
    """Means and intervals over the clips of each method that has any, and ours minus each other one, clip by clip.

    {"methods", "controls": {name: {"label", "clips", metric: interval, "fid", "fvd", work, "per_frame"}}, "ours": name,
    "ours_minus": {name: {metric: interval}}, "changing_most": clips, "ours_minus_there": as `ours_minus`}.
    `networks`: which of `fid` and `fvd` there are.
    """
    methods = {name: _summary(out, name, LABELS[name], clips, networks) for name in names}
    controls = {name: _summary(out, name, label, clips, networks) for name, label in CONTROLS.items()}
    ours = next((name for name in OURS if methods.get(name)), None)
    others = [name for name, each in methods.items() if ours and each and name != ours]
    most = changing_most(out, clips)
    return {
        "methods": {name: each for name, each in methods.items() if each},
        "controls": {name: each for name, each in controls.items() if each},
        "ours": ours,
        "ours_minus": {name: minus(out, KIND, str(ours), name, clips, METRICS) for name in others},
        "changing_most": most,
        "ours_minus_there": {name: minus(out, KIND, str(ours), name, most, METRICS) for name in others if most},
    }


def changing_most(out: Path, clips: list[str]) -> list[str]:
    """The half of the clips that a cross-fade misses most, where there are enough of them and it was run."""
    rows = [(clip, read_rows(out, KIND, "cross-fade", [clip])) for clip in clips]
    missed = sorted((clip_value(row, "psnr"), clip) for clip, found in rows for row in found)
    return [clip for _, clip in missed[: len(missed) // 2]] if len(missed) >= ENOUGH_FOR_HALVES else []


def _summary(out: Path, name: str, label: str, clips: list[str], networks: Sequence[str]) -> dict | None:
    rows = read_rows(out, KIND, name, clips)
    if not rows:
        return None
    metrics = [metric for metric in METRICS if any(metric in row for row in rows)]
    return {
        "label": label,
        "clips": len(rows),
        **{metric: interval([clip_value(row, metric) for row in rows]) for metric in metrics},
        **{network: _frechet(out, name, clips, network) for network in networks if name != "truth"},
        "unet_videos": float(np.mean([row["unet_videos"] for row in rows])),
        "seconds": float(np.mean([row["seconds"] for row in rows])),
        "peak_gib": max(row["peak_bytes"] for row in rows) / GIB,
        "per_frame": {metric: over_frames(rows, metric) for metric in metrics if metric in PER_FRAME},
    }


def _frechet(out: Path, name: str, clips: list[str], network: str) -> float | None:
    """The distance to the true frames or videos of the same clips; None for fewer than two samples."""
    pairs = [(features_path(out, name, clip), features_path(out, "truth", clip)) for clip in clips]
    known = [tuple(load_file(path) for path in pair) for pair in pairs if all(path.exists() for path in pair)]
    both = [
        (ours[network].numpy(), true[network].numpy()) for ours, true in known if network in ours and network in true
    ]
    if not both:
        return None
    distance = frechet_distance(*(np.concatenate(each) for each in zip(*both)))
    return None if np.isnan(distance) else distance


def markdown(result: dict, selection: Selection, missing: list[str]) -> str:
    """quality.md."""
    settings = result["settings"]
    used, clips = {clip.file for clip in selection.clips}, selection.clips
    rates = sorted({round(clip.rate, 2) for clip in clips})
    parts = [
        (
            f"{settings['frames']} frames at {settings['width']}×{settings['height']}, {len(clips)} clips of "
            f"{len(used)} videos of the user's, at {', '.join(f'{rate:g}' for rate in rates[:6])} frames a second. "
            f"The model is {result['checkpoint']}. Means and 95 % intervals over the clips; seconds and peak memory of "
            f"making a video, on {result['device']}.\n"
        ),
        f"### {result['clips_done']} of {len(clips)} clips\n",
        _methods_table({**result["methods"], **result["controls"]}),
    ]
    if any(network in each for network in FRECHET for each in result["methods"].values()):
        parts.append(
            "FID is taken over the frames between the keyframes, FVD over whole videos, of the same clips. Both are "
            "too large for few samples: compare only what has the same number of clips.\n"
        )
    if result["ours_minus"]:
        labels = {name: each["label"] for name, each in result["methods"].items()}
        parts += [
            f"### {labels[result['ours']]} minus each other method, clip by clip\n",
            difference_table(result["ours_minus"], labels, METRICS),
        ]
        if result["ours_minus_there"]:
            parts += [
                f"### The same on the {len(result['changing_most'])} clips that a cross-fade misses most\n",
                difference_table(result["ours_minus_there"], labels, METRICS),
            ]
    parts += ["### Clips\n", _clips_table(selection)]
    if selection.skipped:
        parts += ["### Not used\n", *(f"- {file} {reason}" for file, reason in sorted(selection.skipped.items())), ""]
    if selection.remarks:
        parts += ["### Remarks\n", *(f"- {file}: {words}" for file, words in sorted(selection.remarks.items())), ""]
    if missing:
        parts += ["### Not measured\n", *(f"- {sentence}" for sentence in missing), ""]
    return "\n".join(parts)


def _methods_table(methods: dict[str, dict]) -> str:
    metrics = [metric for metric in METRICS if any(metric in each for each in methods.values())]
    networks = [network for network in FRECHET if any(network in each for each in methods.values())]
    return table(
        [
            "clips",
            *(METRICS[metric] for metric in metrics),
            *(FRECHET[network] for network in networks),
            *("UNet videos", "seconds a clip", "peak memory, GiB"),
        ],
        (
            [
                each["label"],
                str(each["clips"]),
                *(cell(each.get(metric)) for metric in metrics),
                *("–" if each.get(network) is None else f"{each[network]:.2f}" for network in networks),
                *(f"{each['unet_videos']:g}", f"{each['seconds']:.1f}", f"{each['peak_gib']:.2f}"),
            ]
            for each in methods.values()
        ),
    )


def _clips_table(selection: Selection) -> str:
    return table(
        ["video", "from, s", "to, s", "frames a second"],
        (
            [clip.name, clip.file, f"{clip.times[0]:.3f}", f"{clip.times[-1]:.3f}", f"{clip.rate:.2f}"]
            for clip in selection.clips
        ),
    )
