"""The velocity at the keyframe that two segments share, beside what should keep it, on clips of known motion.

Held-out clips of the small world are made from their first, middle and last frame. Writes to DIR: sequence.md (tables
with means and 95 % intervals), sequence.json, contact sheets, and every video with its measures; a stopped run goes on
where it was. Needs requirements-benchmark.txt, which `python dev.py benchmark sequence` installs.

    python dev.py benchmark sequence [--clips 24] [--frames 9] [--out DIR] [--methods …]
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
from . import segments
from .ways import PRESET, WAYS, Ways

PLAIN = "segments"


def main() -> int:
    """Exit status: 0 done, 1 an option or a package that stops the run."""
    parser = benchmark_parser("sequence", __doc__)
    add_model_and_clips(parser, clips=24, frames=9, first_seed=FIRST_SEQUENCE_SEED)
    add_methods(parser, list(WAYS))
    return exit_status("sequence", run, parser.parse_args())


def run(options: argparse.Namespace) -> None:
    """The videos, then the report. Raises OptionError, PackageMissing or WeightsError."""
    # It draws with matplotlib, which is known to be there now.
    from ..common.pictures import contact_sheet
    from ..common.rows import strip

    if options.frames < 9 or options.frames % 2 == 0:
        raise OptionError("--frames: expected an odd number, 9 or more, since the clip is cut in the middle.")
    names = chosen_methods(options.methods, list(WAYS))
    names = [PLAIN, *(name for name in names if name != PLAIN)]
    out = options.out
    clips = world_videos(options, WAYS, ["reconstruction", *names], runner=Ways)
    labels, made = {name: WAYS[name].label for name in names}, list(clips())
    result = segments.result(out, labels, PLAIN, made)
    result |= {"preset": PRESET, "trained": read_metadata(options.checkpoint).get("trained", "no")}
    write_json(out / "sequence.json", result)
    text = segments.markdown(result)
    (out / "sequence.md").write_text(text, encoding="utf-8")
    for clip in made[:2]:
        rows = {label: strip(out, "world", name, clip.name) for name, label in labels.items()}
        contact_sheet(out / f"clip_{clip.name}.png", rows)
    print(f"\n{text}\nResults: {out}")


if __name__ == "__main__":
    sys.exit(main())
