"""Quality over UNet videos spent, for every preset and strategy, on held-out clips of the small world.

Everything runs through the pack's own nodes. Writes to DIR: budget.md (table), budget.json, budget.png (quality over
work), contact sheets, and every video with its measures; a stopped run goes on where it was. `--candidates` adds the
settings among which the presets were chosen. Needs requirements-benchmark.txt, which `python dev.py benchmark budget`
installs.

    python dev.py benchmark budget [--clips 32] [--out DIR] [--methods paper,balanced,…] [--candidates]
"""

import argparse
import json
import sys
from pathlib import Path

from generative_inbetweening.benchmarks.budget import report as budget_report
from generative_inbetweening.benchmarks.budget.methods import CANDIDATES, COMPARED
from generative_inbetweening.benchmarks.common.metrics import ColorVideoVDP
from generative_inbetweening.benchmarks.common.peers import PackageMissing, package_file
from generative_inbetweening.benchmarks.common.workers import add_worker_options, share_out
from generative_inbetweening.benchmarks.quality import clips as quality_clips
from generative_inbetweening.benchmarks.quality.methods import Methods, SamplingSettings
from generative_inbetweening.benchmarks.quality.plan import DEMO, OptionError, keep
from generative_inbetweening.benchmarks.quality.rows import make_rows
from generative_inbetweening.common.errors import WeightsError

PEERS = ("cross-fade", "reconstruction")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="budget", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--clips", type=int, default=32, help="held-out clips of the small world (default: 32)")
    add("--out", type=Path, default=Path("benchmark_output") / "budget", help="folder for all results")
    add("--methods", type=lambda text: text.split(","), help=f"some of {','.join({**COMPARED, **CANDIDATES})}")
    add("--candidates", action="store_true", help="also the settings among which the presets were chosen")
    add("--checkpoint", type=Path, default=DEMO / "demo_svd.safetensors", help="SVD model, file or diffusers folder")
    add(
        "--backward-motion",
        type=Path,
        default=DEMO / "demo_backward_motion.safetensors",
        help="its backward-motion file",
    )
    add("--frames", type=int, default=8, help="frames of a clip (default: 8)")
    add("--size", type=int, default=64, help="side of the pictures in pixels (default: 64)")
    add("--first-seed", type=int, default=quality_clips.FIRST_SEED, help="seed of the first clip")
    add("--without-cvvdp", action="store_true", help="leave ColorVideoVDP out")
    add_worker_options(parser)
    return parser.parse_args()


def main() -> int:
    """Exit status: 0 done, 1 an option or a package that stops the run."""
    options = parse()
    try:
        names = methods_of(options)
        keep(
            options,
            {name: getattr(options, name) for name in ("frames", "size", "first_seed", "without_cvvdp")},
            {"checkpoint": options.checkpoint, "backward_motion": options.backward_motion},
        )
        if options.worker is None:
            package_file("matplotlib", "matplotlib/__init__.py")
        if not share_out(
            "generative_inbetweening.benchmarks.budget", options, lambda share: work(options, names, share)
        ):
            return 1
        if options.worker is None:
            report(options, names)
    except (OptionError, PackageMissing, WeightsError) as error:
        print(f"budget: {error}", file=sys.stderr)
        return 1
    return 0


def methods_of(options: argparse.Namespace) -> list[str]:
    """The methods to compare. Raises OptionError."""
    known = {**COMPARED, **CANDIDATES}
    if not options.methods:
        return [*COMPARED, *(CANDIDATES if options.candidates else ())]
    unknown = [name for name in options.methods if name not in known]
    if unknown:
        raise OptionError(f"--methods: expected some of {', '.join(known)}; found {', '.join(unknown)}.")
    return options.methods


def work(options: argparse.Namespace, names: list[str], share: slice) -> None:
    """A share of the clips, all methods."""
    color_video_vdp = None if options.without_cvvdp else ColorVideoVDP()
    methods = Methods(
        options.checkpoint, {"rotated": options.backward_motion}, SamplingSettings(), choices={**COMPARED, **CANDIDATES}
    )
    try:
        clips = (
            quality_clips.world_clip(number, options.frames, options.size, options.first_seed)
            for number in range(options.clips)[share]
        )
        make_rows(options.out, "world", clips, methods, [*PEERS, *names], color_video_vdp, say)
    finally:
        methods.close()


def report(options: argparse.Namespace, names: list[str]) -> None:
    """budget.json, budget.md, budget.png and contact sheets."""
    clips = [f"{options.first_seed + number}" for number in range(options.clips)]
    labels = {name: each.label for name, each in {**COMPARED, **CANDIDATES}.items() if name in names}
    result = budget_report.summary(options.out, labels, clips)
    (options.out / "budget.json").write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    text = budget_report.markdown(result)
    (options.out / "budget.md").write_text(text, encoding="utf-8")
    budget_report.plot(options.out / "budget.png", result)
    budget_report.contact_sheets(options.out, labels, clips[:4])
    print("\n" + text)
    say(f"Results: {options.out}")


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
