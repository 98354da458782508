"""Run the tests, the machine checks or a benchmark, with the host at hand."""

from __future__ import annotations

import ast
import json
import os
import subprocess
from pathlib import Path

from . import paths
from .chromium import prepare_chromium
from .host import Host
from .processes import DevError, clean_environment, output_of, pip, run_logged, runs, say
from .set_up import setup_lock

# Benchmarks that need more packages than the tests do.
NEED_MORE = ("quality", "budget", "match_keyframes", "middle_keyframes", "last_keyframe", "sequence")
# `python -m` looks into the user's folder first, which may be another checkout; `-P`, which prevents that, is of 3.11.
RUN_MODULE = (
    "import runpy, sys; sys.path[0] = sys.argv.pop(1); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)
CORES = os.cpu_count() or 1
# Each takes up to 3 GB.
PROCESSES = min(CORES, 4)
# By file: a file's tests share a model, a server or a browser.
IN_PARALLEL = ("-n", str(PROCESSES), "--dist", "loadfile")
# The markers are described in pyproject.toml.
FAST = ("-m", "not (server or browser or install or slow)")
SITE_FOLDERS = "import json, sys; print(json.dumps([p for p in sys.path if p.endswith('site-packages')]))"


def run_tests(host: Host, arguments: list[str], fast: bool = False) -> int:
    """pytest's exit code. All the tests, or the fast ones, run in several processes; else it is pytest as it is."""
    python = developer_python(host)
    additions: dict[str, object] = {"INBETWEEN_COMFYUI": host.folder}
    chromium = None if fast else prepare_chromium()
    if chromium:
        additions["INBETWEEN_CHROMIUM"] = chromium
    if fast or not arguments:
        arguments = [*IN_PARALLEL, *(FAST if fast else ()), *arguments]
        additions["OMP_NUM_THREADS"] = max(1, CORES // PROCESSES)
    say("Running the tests.")
    command = [str(python), "-m", "pytest", *arguments]
    return subprocess.run(command, cwd=paths.CHECKOUT, env=clean_environment(**additions), check=False).returncode


def run_checks(host: Host) -> int:
    """Formatter and linter over the whole checkout, the type checker over the folders that pyproject.toml names.

    0 when none of them finds anything.
    """
    python = str(developer_python(host))
    found = 0
    for tool in (["ruff", "format", "--check"], ["ruff", "check"], ["pyright", "--pythonpath", python]):
        say(f"Running {' '.join(tool[:2])}.")
        command = [python, "-m", *tool]
        found |= subprocess.run(command, cwd=paths.CHECKOUT, env=clean_environment(), check=False).returncode
    return found


def developer_python(host: Host) -> Path:
    """A Python with ComfyUI's packages and those of requirements-dev.txt. Raises DevError.

    That is `.venv`, or, beside a ComfyUI of the user's, an environment that sees its packages: its own is not written
    to.
    """
    if host.is_ours:
        return host.python
    python = paths.environment_python(paths.TEST_ENVIRONMENT)
    with setup_lock():
        if not runs([python, "-c", "import pip"]):
            run_logged("Making the test environment", [host.python, "-m", "venv", "--clear", paths.TEST_ENVIRONMENT])
        site = Path(output_of([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
        # site.addsitedir also reads the .pth files that lie there, as those of editable installs.
        folders = json.loads(output_of([host.python, "-c", SITE_FOLDERS]))
        lines = [f"import site; site.addsitedir({folder!r})\n" for folder in folders]
        (site / "comfyui_packages.pth").write_text("".join(lines), encoding="utf-8")
        say("Installing what the tests need beside ComfyUI's own packages.")
        pip("Installing the tests' packages", python, "install", "-r", paths.DEV_REQUIREMENTS)
    return python


def benchmarks() -> dict[str, str]:
    """Name and first sentence of every benchmark: a folder that can be run."""
    return {
        path.parent.name: (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        for path in sorted(paths.BENCHMARKS.glob("*/__main__.py"))
    }


def check_benchmark(name: str) -> None:
    """Raises DevError if there is no such benchmark."""
    if name not in benchmarks():
        raise DevError(f"There is no benchmark {name!r}; there are: {', '.join(benchmarks()) or 'none'}.")


def run_benchmark(host: Host, name: str, arguments: list[str]) -> int:
    """The benchmark's exit code; paths in its arguments are relative to where the user stands. Raises DevError."""
    python = developer_python(host)
    if name in NEED_MORE:
        with setup_lock():
            say("Installing what the benchmark needs beside the tests' packages.")
            pip("Installing the benchmark's packages", python, "install", "-r", paths.BENCHMARK_REQUIREMENTS)
    command = [str(python), "-c", RUN_MODULE, str(paths.CHECKOUT), f"{paths.IMPORT_NAME}.benchmarks.{name}", *arguments]
    environment = clean_environment(INBETWEEN_COMFYUI=host.folder, PYTHONPATH=paths.CHECKOUT)
    return subprocess.run(command, env=environment, check=False).returncode
