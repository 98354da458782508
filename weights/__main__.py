"""`python weights …`, from any folder.

Run as a folder it works with every Python that ComfyUI comes with; the one in its portable Windows version ignores the
working directory, so that `python -m generative_inbetweening.weights` finds nothing there.
"""

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

# The name is made at run time, by generative_inbetweening.py.
from generative_inbetweening.weights.command_line import main  # pyright: ignore[reportMissingImports]

sys.exit(main())
