"""A clip's true middle frame as keyframe inside it, beside two keyframes alone and beside two segments joined there.

Every strategy, on held-out clips of the small world; `--candidates` adds the falloffs among which the product's was
chosen. Writes to DIR: middle_keyframes.md (tables), middle_keyframes.json, contact sheets, and every video with its
measures; a stopped run goes on where it was. Needs requirements-benchmark.txt, which
`python dev.py benchmark middle_keyframes` installs.

    python dev.py benchmark middle_keyframes [--clips 16] [--frames 9] [--out DIR] [--methods …] [--candidates]
"""

import argparse
import sys

from ...common.atomic_write import write_json
from ...weights.files import read_metadata
from ..common.clips import FIRST_SEQUENCE_SEED
from ..common.options import (
    OptionError,
    add_methods,
    add_model_and_clips,
    benchmark_parser,
    chosen_methods,
    exit_status,
)
from ..common.rows import world_videos
from . import report
from .methods import CANDIDATES, COMPARED, Ways

METHODS = {**COMPARED, **CANDIDATES}


def main() -> int:
    """Exit status: 0 done, 1 an option or a package that stops the run."""
    parser = benchmark_parser("middle_keyframes", __doc__)
    add_model_and_clips(parser, clips=16, frames=9, first_seed=FIRST_SEQUENCE_SEED)
    add_methods(parser, list(METHODS))
    parser.add_argument("--candidates", action="store_true", help="also the falloffs")
    options = parser.parse_args()
    return exit_status("middle_keyframes", run, options)


def run(options: argparse.Namespace) -> None:
    """The videos, then the report. Raises OptionError, PackageMissing or WeightsError."""
    # It draws with matplotlib, which is known to be there now.
    from ..common.pictures import contact_sheet
    from ..common.rows import strip

    if options.frames < 5 or options.frames % 2 == 0:
        raise OptionError("--frames: expected an odd number, 5 or more, since the keyframe is in the middle.")
    names = chosen_methods(options.methods, list(METHODS if options.candidates or options.methods else COMPARED))
    out = options.out
    clips = world_videos(options, METHODS, ["reconstruction", *names], runner=Ways)
    labels = {name: METHODS[name].label for name in names}
    result = report.result(out, labels, list(clips()))
    result |= {"frames": options.frames, "trained": read_metadata(options.checkpoint).get("trained", "no")}
    write_json(out / "middle_keyframes.json", result)
    text = report.markdown(result)
    (out / "middle_keyframes.md").write_text(text, encoding="utf-8")
    for clip in list(clips())[:4]:
        rows = {label: strip(out, "world", name, clip.name) for name, label in labels.items()}
        contact_sheet(out / f"clip_{clip.name}.png", rows)
    print(f"\n{text}\nResults: {out}")


if __name__ == "__main__":
    sys.exit(main())
