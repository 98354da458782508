"""Quality over UNet videos spent, for every preset and strategy, on held-out clips of the small world.

Everything runs through the pack's own nodes. Writes to DIR: budget.md (table), budget.json, budget.png (quality over
work), contact sheets, and every video with its measures; a stopped run goes on where it was. `--candidates` adds the
settings among which the presets were chosen. Differences are from `paper` or, where `--methods` leaves it out, from the
first method named there. Needs requirements-benchmark.txt, which `python dev.py benchmark budget` installs.

    python dev.py benchmark budget [--clips 32] [--out DIR] [--methods paper,balanced,…] [--candidates]
"""

import argparse
import sys

from ...common.atomic_write import write_json
from ..common.clips import FIRST_SEED, first_of_each_number
from ..common.options import (
    add_methods,
    add_model_and_clips,
    benchmark_parser,
    chosen_methods,
    exit_status,
)
from ..common.rows import world_videos
from . import report
from .corrected_first import Candidates
from .methods import CANDIDATES, COMPARED

METHODS = {**COMPARED, **CANDIDATES}


def main() -> int:
    """Exit status: 0 done, 1 an option or a package that stops the run."""
    parser = benchmark_parser("budget", __doc__)
    add_model_and_clips(parser, clips=32, frames=8, first_seed=FIRST_SEED)
    add_methods(parser, list(METHODS))
    about = "also the settings among which the presets were chosen"
    parser.add_argument("--candidates", action="store_true", help=about)
    options = parser.parse_args()
    return exit_status("budget", run, options)


def run(options: argparse.Namespace) -> None:
    """The videos, then the report. Raises OptionError, PackageMissing or WeightsError."""
    # It draws with matplotlib, which is known to be there now.
    from . import pictures

    known = METHODS if options.candidates or options.methods else COMPARED
    names = chosen_methods(options.methods, list(known))
    out = options.out
    world_videos(options, METHODS, [*report.PEERS, *names], runner=Candidates)
    seeds = [f"{options.first_seed + number}" for number in range(options.clips)]
    labels = {name: METHODS[name].label for name in names}
    beside = "paper" if "paper" in names else options.methods[0]
    result = report.result(out, labels, seeds, beside)
    write_json(out / "budget.json", result)
    text = report.markdown(result)
    (out / "budget.md").write_text(text, encoding="utf-8")
    pictures.plot(out / "budget.png", result)
    pictures.contact_sheets(out, labels, first_of_each_number(seeds))
    print(f"\n{text}\nResults: {out}")


if __name__ == "__main__":
    sys.exit(main())
