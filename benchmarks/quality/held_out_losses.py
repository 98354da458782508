"""What fine-tuning did to the loss on held-out reversed clips, read from the log.jsonl of its runs."""

import json
from pathlib import Path

from ..common.bootstrap import difference, interval
from .report import cell


def held_out_losses(logs: list[Path]) -> list[dict]:
    """For each run {"maps", "seed", "step", "fine_tuned": interval, "base_rotated": …, "base_own": …, "minus_rotated":
    interval of fine-tuned − untouched weights with rotated maps, clip by clip, "minus_own": …}."""
    results = []
    for log in logs:
        entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        settings = next((entry["settings"] for entry in entries if entry.get("event") == "start"), {})
        base = next((entry for entry in entries if "base_rotated" in entry), None)
        after = [entry for entry in entries if entry.get("event") == "held-out" and "loss" in entry]
        if base is None or not after:
            continue
        last = after[-1]
        clips = {
            "fine_tuned": last["loss"]["clips"],
            "base_rotated": base["base_rotated"]["clips"],
            "base_own": base["base_own"]["clips"],
        }
        results.append(
            {
                "maps": settings.get("maps", "?"),
                "seed": settings.get("seed", "?"),
                "step": last["step"],
                **{name: interval(values) for name, values in clips.items()},
                **{
                    f"minus_{maps}": difference(clips["fine_tuned"], clips[f"base_{maps}"])
                    for maps in ("rotated", "own")
                },
            }
        )
    return results


def markdown(runs: list[dict]) -> str:
    """A run a row."""
    titles = {"fine_tuned": "fine-tuned", "base_rotated": "untouched, rotated maps", "base_own": "untouched, own maps"}
    signed = {"minus_rotated": "fine-tuned minus untouched, rotated", "minus_own": "fine-tuned minus untouched, own"}
    lines = [
        "### Loss of the backward model on held-out reversed clips",
        "",
        "| training | " + " | ".join([*titles.values(), *signed.values()]) + " |",
        "|---" * 6 + "|",
    ]
    for run in runs:
        cells = [cell(run[name], digits=3) for name in titles] + [cell(run[name], True, 3) for name in signed]
        lines.append(f"| {run['maps']} maps, seed {run['seed']}, step {run['step']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
