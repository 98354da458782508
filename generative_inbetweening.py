"""The pack under a name that Python can import, whatever its folder is called.

ComfyUI imports the folder itself, by its path. Tests, training, benchmarks and commands import this name, either from
the pack's folder (`python -m generative_inbetweening.weights`) or anywhere after `pip install -e .`.
"""

from pathlib import Path

# With a path of its own a module is a package, whose modules are those of this folder.
__path__ = [str(Path(__file__).resolve().parent)]
