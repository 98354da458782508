"""Draws how the demo model's training went, from its log: held-out loss of the UNet, losses of the other networks.

    python -m generative_inbetweening.demo.model.curve FOLDER/log.jsonl --out demo/model/curve.png

Needs matplotlib. The UNet's held-out loss is that of the averaged weights on clips of the test split.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure

from ...common.atomic_write import atomic_write

PANELS = {
    "vae": ("VAE: squared error of single frames", "mse"),
    "decoder": ("decoder: squared error of clips", "mse"),
    "unet": ("UNet: loss", "loss"),
}
"""{stage: (title, number of its steps that is drawn)}; pictures are in [-1, 1]."""


def read_log(path: Path) -> list[dict]:
    """Its lines; of steps that were taken again, from an older checkpoint or from none, those of the last time."""
    last: dict[tuple, dict] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        key = entry["stage"], tuple(entry), entry.get("step", 0)
        last = {other: each for other, each in last.items() if other[:2] != key[:2] or other[2] < key[2]}
        last[key] = entry
    return list(last.values())


def draw(lines: list[dict], path: Path) -> None:
    """A panel for every stage that the log has."""
    stages = [stage for stage, (_, number) in PANELS.items() if any(_has(line, stage, number) for line in lines)]
    figure = Figure(figsize=(4.5 * len(stages), 3.6), layout="constrained")
    for axis, stage in zip(figure.subplots(1, len(stages), squeeze=False)[0], stages, strict=True):
        title, number = PANELS[stage]
        for key, words in ((number, "training"), ("held_out_loss", "held out")):
            points = [(line["step"], line[key]) for line in lines if _has(line, stage, key)]
            if points:
                axis.plot(*zip(*points, strict=True), marker="." if key == "held_out_loss" else None, label=words)
        axis.set(title=title, xlabel="step", yscale="log")
        axis.grid(alpha=0.3, which="both")
        if len(axis.lines) > 1:
            axis.legend()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _has(line: dict, stage: str, number: str) -> bool:
    return line["stage"] == stage and number in line


def main(arguments: list[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m generative_inbetweening.demo.model.curve", description="Draws the demo model's training."
    )
    parser.add_argument("log", type=Path, help="log.jsonl of a training")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    options = parser.parse_args(arguments)
    draw(read_log(options.log), options.out)


if __name__ == "__main__":
    main()
