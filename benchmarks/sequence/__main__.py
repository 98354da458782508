"""Speed at the keyframe that two segments share, with and without guiding frames, on held-out clips of known motion.

Each clip of the small world is cut at its middle frame into two segments of Inbetween Keyframe Sequence. Writes to DIR:
sequence.md (a table with means and 95 % intervals) and sequence.json.

    python dev.py benchmark sequence [--clips 24] [--out DIR] [--guiding 0 1 2 3]
"""

import argparse

from ...common.atomic_write import write_json
from ..common.clips import FIRST_SEQUENCE_SEED
from ..common.options import add_model_and_clips, benchmark_parser
from .segments import markdown, measured_clips, summary


def parse() -> argparse.Namespace:
    """The command line."""
    parser = benchmark_parser("sequence", __doc__)
    add_model_and_clips(parser, clips=24, frames=15, first_seed=FIRST_SEQUENCE_SEED)
    add = parser.add_argument
    add("--guiding", type=int, nargs="+", default=[0, 1, 2, 3], help="numbers of guiding frames (default: 0 1 2 3)")
    add("--steps", type=int, default=15, help="sampling steps (default: 15)")
    add("--reinjections", type=int, default=1, help="re-injections on the first half of the steps (default: 1)")
    add("--fusion", default="weighted", help="average or weighted (default: weighted)")
    options = parser.parse_args()
    if options.frames < 5 or options.frames % 2 == 0:
        parser.error("--frames: an odd number, 5 or more, is expected, since the clip is cut in the middle")
    return options


def main() -> None:
    """The videos, their measures, the table."""
    options = parse()
    result = summary(measured_clips(options), options)
    write_json(options.out / "sequence.json", result)
    text = markdown(result)
    (options.out / "sequence.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\nResults: {options.out}")


if __name__ == "__main__":
    main()
