"""ComfyUI Manager's and the registry's command lines, in an environment of their own in `.dev`.

They see ComfyUI's packages, as they do on a user's machine, but install nothing beside them: `.venv` stays as it is.
"""

import os
import sys
from pathlib import Path

import pytest
from generative_inbetweening.tools.paths import STATE, environment_python
from generative_inbetweening.tools.processes import NO_NETWORK, DevError, output_of, pip, run_logged, runs
from generative_inbetweening.tools.set_up import setup_lock

TOOLS = ("comfyui-manager==4.3", "comfy-cli==1.23.0")
ENVIRONMENT = STATE / "install-tools"
LOG = STATE / "install-tools.log"
STAMP = ENVIRONMENT / "installed.txt"


@pytest.fixture(scope="session")
def install_tools() -> Path:
    """The folder of `cm-cli` and `comfy`; installing them takes about a minute, once.

    Without a package index the test that asks for them is skipped, except where `CI` is set.
    """
    python = environment_python(ENVIRONMENT)
    wanted = "\n".join([*TOOLS, sys.version, *_site_folders()])
    STATE.mkdir(exist_ok=True)
    with setup_lock(STATE / "install-tools.lock"):
        installed = STAMP.read_text(encoding="utf-8") if STAMP.is_file() else ""
        if installed != wanted or not runs([python, "-m", "pip", "--version"]):
            LOG.unlink(missing_ok=True)
            try:
                _install(python)
            except DevError as error:
                _skip_without_network(error)
            STAMP.write_text(wanted, encoding="utf-8")
    return python.parent


def _install(python: Path) -> None:
    make = [sys.executable, "-m", "venv", "--clear", ENVIRONMENT]
    run_logged("Making the environment of cm-cli and comfy", make, LOG)
    site = Path(output_of([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
    lines = [f"import site; site.addsitedir({folder!r})\n" for folder in _site_folders()]
    (site / "comfyui_packages.pth").write_text("".join(lines), encoding="utf-8")
    pip("Installing cm-cli and comfy", python, "install", *TOOLS, log=LOG)


def _site_folders() -> list[str]:
    return [folder for folder in sys.path if folder.endswith("site-packages")]


def _skip_without_network(error: DevError) -> None:
    output = LOG.read_text(encoding="utf-8", errors="replace")
    if "CI" in os.environ or not NO_NETWORK.search(output):
        raise error
    pytest.skip(f"no package index can be reached, so {' and '.join(TOOLS)} cannot be installed")
