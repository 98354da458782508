"""Command: light-weight backward fine-tuning of Stable Video Diffusion (arXiv 2408.15239, section 4).

Runs from any folder, alone or under accelerate:

    python -m generative_inbetweening.training.fine_tune --base SVD_FOLDER --data VIDEOS --out RESULT
    accelerate launch -m generative_inbetweening.training.fine_tune --config training/configs/svd_authors.json …
"""

from __future__ import annotations

import argparse
import logging
import os
import sys

from .settings import SettingsError, add_options, settings_from

logger = logging.getLogger(__name__)

STOPPED = 130


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command-line arguments; settings that were not given are absent."""
    parser = argparse.ArgumentParser(
        prog="python -m generative_inbetweening.training.fine_tune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="CHECKPOINT",
        help="continue from a checkpoint; without a file, from the newest in --out",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing result")
    parser.add_argument(
        "--memory-estimate",
        action="store_true",
        help="print what a step of these settings needs on a device, and do nothing else; without "
        "--base for SVD itself",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status: 0 done, 1 an error, 130 stopped with a checkpoint."""
    parsed = parse(arguments)
    # Under accelerate only the first process reports progress; every one reports errors.
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR
    logging.basicConfig(format="%(levelname)s: %(message)s", level=level, stream=sys.stderr)
    try:
        settings = settings_from(parsed)
        if parsed.memory_estimate:
            from .memory import report

            print(report(settings))
            return 0
        return _train(settings, parsed)
    except SettingsError as error:
        logger.error("%s", error)
        return 1


def _train(settings, parsed: argparse.Namespace) -> int:
    # Imported here so that --help and a wrong option answer at once.
    from ..common.errors import WeightsError
    from .checkpoint import CheckpointError
    from .data import NoVideos
    from .run import Diverged, Interrupted, fine_tune
    from .svd import NotAnSVDModel

    try:
        fine_tune(settings, parsed.resume, parsed.overwrite)
    except (NoVideos, NotAnSVDModel, CheckpointError, WeightsError, Diverged) as error:
        logger.error("%s", error)
        return 1
    except Interrupted as stop:
        logger.info("%s", stop)
        return STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
