"""ComfyUI Manager's and the registry's command lines, in an environment of their own in `.dev`.

They see ComfyUI's packages, as they do on a user's machine, but install nothing beside them: `.venv` stays as it is.
"""

import os
import sys
from pathlib import Path

import pytest
from generative_inbetweening.tools.places import STATE, environment_python
from generative_inbetweening.tools.problems import NO_NETWORK, DevError
from generative_inbetweening.tools.setup_lock import setup_lock
from generative_inbetweening.tools.subprocesses import output_of, pip_environment, run_logged, runs

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
    with setup_lock(STATE / "install-tools.lock") as lock:
        installed = STAMP.read_text(encoding="utf-8") if STAMP.is_file() else ""
        if installed != wanted or not runs([python, "-m", "pip", "--version"]):
            LOG.unlink(missing_ok=True)
            try:
                _install(python, lock)
            except DevError as error:
                _skip_without_network(error)
            STAMP.write_text(wanted, encoding="utf-8")
    return python.parent


def _install(python: Path, lock: int) -> None:
    make = [sys.executable, "-m", "venv", "--clear", ENVIRONMENT]
    run_logged("Making the environment of cm-cli and comfy", make, LOG, pip_environment(), [lock])
    site = Path(output_of([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
    lines = [f"import site; site.addsitedir({folder!r})\n" for folder in _site_folders()]
    (site / "comfyui_packages.pth").write_text("".join(lines), encoding="utf-8")
    install = [python, "-m", "pip", "install", "--no-input", "--progress-bar", "off", *TOOLS]
    run_logged("Installing cm-cli and comfy", install, LOG, pip_environment(), [lock])


def _site_folders() -> list[str]:
    return [folder for folder in sys.path if folder.endswith("site-packages")]


def _skip_without_network(error: DevError) -> None:
    output = LOG.read_text(encoding="utf-8", errors="replace")
    if "CI" in os.environ or not any(sign in output for sign in NO_NETWORK):
        raise error
    pytest.skip(f"no package index can be reached, so {' and '.join(TOOLS)} cannot be installed")
