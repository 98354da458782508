"""Videos before and after Match Keyframes, on held-out clips of the small world.

Two kinds of video: between two keyframes, and two of these joined at their common keyframe. Writes to DIR:
match_keyframes.md (tables with means and 95 % intervals) and match_keyframes.json. Needs requirements-benchmark.txt,
which `python dev.py benchmark match_keyframes` installs.

    python dev.py benchmark match_keyframes [--clips 12] [--out DIR] [--preset fast] [--without-cvvdp]
"""

import argparse
import sys

from ...common.atomic_write import write_json
from ...sampler.settings import PRESETS
from ..common.clips import FIRST_SEED
from ..common.options import add_model_and_clips, add_without_cvvdp, benchmark_parser, exit_status


def main() -> int:
    """Exit status: 0 done, 1 a package that stops the run."""
    parser = benchmark_parser("match_keyframes", __doc__)
    add_model_and_clips(parser, clips=12, frames=8, first_seed=FIRST_SEED)
    add = parser.add_argument
    add("--preset", choices=list(PRESETS), default="fast", help="preset of the videos (default: fast)")
    add_without_cvvdp(parser)
    return exit_status("match_keyframes", run, parser.parse_args())


def run(options: argparse.Namespace) -> None:
    """The videos, their measures, the table. Raises PackageMissing."""
    # What it measures with is known to be there now.
    from .measures import markdown, measured_clips, summary

    result = summary(measured_clips(options), options)
    write_json(options.out / "match_keyframes.json", result)
    text = markdown(result)
    (options.out / "match_keyframes.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\nResults: {options.out}")


if __name__ == "__main__":
    sys.exit(main())
