"""Videos that lead up to a picture without a first keyframe: do things fly head first and slow down, as they truly do?

The last frame of held-out clips of the small world, whose objects go straight, is the only keyframe. Writes to DIR:
last_keyframe.md (a table with means and 95 % intervals), last_keyframe.json, last_keyframe.png (the speed over the
frames), and every video with its measures; a stopped run goes on where it was. Needs requirements-benchmark.txt, which
`python dev.py benchmark last_keyframe` installs.

    python dev.py benchmark last_keyframe [--clips 24] [--out DIR] [--preset balanced] [--methods rotated,own,…]
"""

import argparse
import sys

from ...common.atomic_write import write_json
from ...sampler.settings import PRESETS
from ..common.clips import FIRST_SEED
from ..common.options import (
    add_methods,
    add_model_and_clips,
    benchmark_parser,
    chosen_methods,
    exit_status,
)
from ..common.rows import world_videos
from . import report
from .methods import METHODS, OTHERS, straight_clips, straight_seeds


def main() -> int:
    """Exit status: 0 done, 1 an option or a package that stops the run."""
    parser = benchmark_parser("last_keyframe", __doc__)
    add_model_and_clips(parser, clips=24, frames=8, first_seed=FIRST_SEED)
    add_methods(parser, list(METHODS))
    presets = [name for name, preset in PRESETS.items() if preset["strategy"] == "dual-direction"]
    parser.add_argument("--preset", choices=presets, default="balanced", help="steps, sampler and guidance of all")
    options = parser.parse_args()
    return exit_status("last_keyframe", run, options)


def run(options: argparse.Namespace) -> None:
    """The videos, then the report. Raises OptionError, PackageMissing or WeightsError."""
    # It draws with matplotlib, which is known to be there now.
    from . import pictures

    names = chosen_methods(options.methods, list(METHODS))
    out = options.out
    settings = {"preset": options.preset, "steps": PRESETS[options.preset]["steps"]}
    world_videos(options, METHODS, [*names, *OTHERS], straight_clips, settings, kept=("preset",))
    labels = {**{name: METHODS[name].label for name in names}, **OTHERS}
    clips = [f"{seed}" for seed in straight_seeds(options.first_seed, options.clips)]
    result = {"preset": options.preset, **report.result(out, labels, clips)}
    write_json(out / "last_keyframe.json", result)
    text = report.markdown(result)
    (out / "last_keyframe.md").write_text(text, encoding="utf-8")
    pictures.plot(out / "last_keyframe.png", result)
    print(f"\n{text}\nResults: {out}")


if __name__ == "__main__":
    sys.exit(main())
