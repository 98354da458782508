"""Run the tests, or a benchmark, with the host at hand."""

from __future__ import annotations

import ast
import json
import os
import subprocess
from pathlib import Path

from .chromium import prepare_chromium
from .host import Host
from .places import (
    BENCHMARK_REQUIREMENTS,
    BENCHMARKS,
    CHECKOUT,
    DEV_REQUIREMENTS,
    IMPORT_NAME,
    LOCK,
    SETUP_LOG,
    TEST_ENVIRONMENT,
    environment_python,
)
from .problems import DevError
from .setup_lock import setup_lock
from .subprocesses import clean_environment, output_of, pip_environment, run_logged, runs, say

# Benchmarks that need more packages than the tests do.
NEED_MORE = ("quality", "budget", "sequence")
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
    python = host.python if host.is_ours else test_python(host)
    additions = {"INBETWEEN_COMFYUI": host.folder}
    chromium = None if fast else prepare_chromium()
    if chromium:
        additions["INBETWEEN_CHROMIUM"] = chromium
    if fast or not arguments:
        arguments = [*IN_PARALLEL, *(FAST if fast else ()), *arguments]
        additions["OMP_NUM_THREADS"] = str(max(1, CORES // PROCESSES))
    say("Running the tests.")
    command = [str(python), "-m", "pytest", *arguments]
    return subprocess.run(command, cwd=CHECKOUT, env=clean_environment(**additions), check=False).returncode


def test_python(host: Host) -> Path:
    """A Python that sees the packages of a ComfyUI of the user's and, beside them, those of the tests.

    That ComfyUI's own environment is not written to. Raises DevError.
    """
    python = environment_python(TEST_ENVIRONMENT)
    with setup_lock(LOCK) as lock:
        if not runs([python, "-c", "import pip"]):
            make = [host.python, "-m", "venv", "--clear", TEST_ENVIRONMENT]
            run_logged("Making the test environment", make, SETUP_LOG, pip_environment(), [lock])
        site = Path(output_of([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
        # site.addsitedir also reads the .pth files that lie there, as those of editable installs.
        lines = [f"import site; site.addsitedir({folder!r})\n" for folder in host_site_folders(host)]
        (site / "comfyui_packages.pth").write_text("".join(lines), encoding="utf-8")
        say("Installing what the tests need beside ComfyUI's own packages.")
        install = [python, "-m", "pip", "install", "--no-input", "--progress-bar", "off", "-r", DEV_REQUIREMENTS]
        run_logged("Installing the tests' packages", install, SETUP_LOG, pip_environment(), [lock])
    return python


def host_site_folders(host: Host) -> list[str]:
    return json.loads(output_of([host.python, "-c", SITE_FOLDERS]))


def benchmarks() -> dict[str, str]:
    """Name and first sentence of every benchmark: a folder that can be run."""
    return {
        path.parent.name: (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        for path in sorted(BENCHMARKS.glob("*/__main__.py"))
    }


def check_benchmark(name: str) -> None:
    """Raises DevError if there is no such benchmark."""
    if name not in benchmarks():
        raise DevError(f"There is no benchmark {name!r}; there are: {', '.join(benchmarks()) or 'none'}.")


def run_benchmark(host: Host, name: str, arguments: list[str]) -> int:
    """The benchmark's exit code; paths in its arguments are relative to where the user stands. Raises DevError.

    A ComfyUI of the user's is not written to.
    """
    python = host.python if host.is_ours else test_python(host)
    if name in NEED_MORE:
        with setup_lock(LOCK) as lock:
            say("Installing what the benchmark needs beside the tests' packages.")
            packages = ["--no-input", "--progress-bar", "off", "-r", BENCHMARK_REQUIREMENTS]
            install = [python, "-m", "pip", "install", *packages]
            run_logged("Installing the benchmark's packages", install, SETUP_LOG, pip_environment(), [lock])
    command = [str(python), "-c", RUN_MODULE, str(CHECKOUT), f"{IMPORT_NAME}.benchmarks.{name}", *arguments]
    environment = clean_environment(INBETWEEN_COMFYUI=host.folder, PYTHONPATH=CHECKOUT)
    return subprocess.run(command, env=environment, check=False).returncode
