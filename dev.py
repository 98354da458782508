"""The development door: python dev.py demo | test | check | serve | benchmark.

Everything is made inside this checkout: `.venv`, `.comfyui`, `.dev`, `demo_output`,
`benchmark_output`. The work is done in `tools/`;
this file stays readable by every Python, so that one that is too old gets a sentence instead of a syntax error.
"""

import sys

OLDEST_PYTHON = (3, 10)


def main():
    if sys.version_info < OLDEST_PYTHON:
        versions = sys.version_info[:2] + OLDEST_PYTHON
        sentence = "this is Python {}.{}, but Python {}.{} or newer is needed; start dev.py with a newer one"
        sys.stderr.write("dev.py: " + sentence.format(*versions) + ".\n")
        return 1
    from generative_inbetweening.tools.command_line import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
