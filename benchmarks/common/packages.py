"""Files in packages that only benchmarks need."""

import importlib.metadata
import importlib.util
from pathlib import Path

_DO = "Run this through `python dev.py benchmark`, or install requirements-benchmark.txt."


class PackageMissing(RuntimeError):
    """A package that only benchmarks need is not installed."""


def check_installed(*modules: str) -> None:
    """Raises PackageMissing, before the long work."""
    missing = [module for module in modules if not importlib.util.find_spec(module)]
    if missing:
        raise PackageMissing(f"Expected the Python modules {', '.join(modules)}, found no {', '.join(missing)}. {_DO}")


def package_file(package: str, end: str) -> Path:
    """The file of an installed package whose path ends with `end`; the package itself is not imported.

    Raises PackageMissing.
    """
    try:
        found = [file for file in importlib.metadata.files(package) or [] if file.as_posix().endswith(end)]
    except importlib.metadata.PackageNotFoundError:
        found = []
    if not found:
        raise PackageMissing(f"Expected the package {package} with its file {end}, found none. {_DO}")
    return Path(found[0].locate())
