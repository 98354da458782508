"""Lets `python …/weights` run the commands from any folder."""

import sys
from pathlib import Path

if not __package__:
    # Run as a folder, Python knows no package around this file; the pack's own folder makes `weights` one.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from weights.command_line import main  # noqa: E402

sys.exit(main())
