"""The demo: the shipped workflow on two keyframes through a real server, to a video and a contact sheet."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .host import Host
from .places import DEMO, DEMO_OUTPUT, DEMO_WORKFLOW, RUNS, STATE
from .problems import DevError
from .server import ADDRESS, free_port, running_server
from .subprocesses import clean_environment, say

TOOLS = Path(__file__).parent
FOLLOW, SHEET = TOOLS / "follow_workflow.py", TOOLS / "contact_sheet.py"
KEYFRAME_TITLES = {"first": "First Keyframe", "last": "Last Keyframe"}
# What the shipped model is and is not, in its makers' words.
ABOUT = DEMO / "about.txt"


@dataclass(frozen=True)
class DemoOptions:
    """What the user asked for; None leaves what the workflow says."""

    first: Path = DEMO / "first.png"
    last: Path = DEMO / "last.png"
    frames: int | None = None
    steps: int | None = None
    seed: int | None = None
    out: Path = DEMO_OUTPUT

    def check(self) -> None:
        """Raises DevError before the long work if a file is missing or the folder cannot be made."""
        for option, path in (("--first", self.first), ("--last", self.last)):
            if not path.is_file():
                raise DevError(f"{option}: there is no picture {path}.")
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.out).close()
        except OSError as error:
            raise DevError(f"--out: cannot write into {self.out}: {error.strerror}.") from error


def run_demo(host: Host, options: DemoOptions) -> None:
    """Make inbetween.mp4 and contact_sheet.png. Raises DevError."""
    RUNS.mkdir(parents=True, exist_ok=True)
    log = STATE / "demo-server.log"
    with tempfile.TemporaryDirectory(dir=RUNS, prefix="demo-", ignore_cleanup_errors=True) as name:
        run = Path(name)
        workflow = prepare_run(run, options)
        port = free_port()
        folders = [part for kind in ("input", "output", "temp") for part in (f"--{kind}-directory", run / kind)]
        with running_server(host, port, log, "--disable-api-nodes", *folders):
            say(f"Running {DEMO_WORKFLOW.name} on {options.first.name} and {options.last.name}.")
            video = run / "inbetween.mp4"
            command = [FOLLOW, f"http://{ADDRESS}:{port}", workflow, video]
            run_script(host, "The workflow", command, f"the server's output is in {log}")
        sheet = run / "contact_sheet.png"
        run_script(host, "Drawing the contact sheet", [SHEET, video, options.first, options.last, sheet])
        replace_together((video, sheet), options.out)
    if ABOUT.is_file():
        say(ABOUT.read_text(encoding="utf-8").strip())
    say(f"Video: {options.out / 'inbetween.mp4'}")
    say(f"Contact sheet: {options.out / 'contact_sheet.png'}")


def replace_together(results: tuple[Path, ...], folder: Path) -> None:
    """Copy all results into the folder, or none of them. Raises DevError."""
    # Names that nobody can know: in a shared folder they could be links to something else.
    partials = [folder / f".{result.name}.{secrets.token_hex(8)}.partial" for result in results]
    try:
        for result, partial in zip(results, partials):
            shutil.copyfile(result, partial)
        for result, partial in zip(results, partials):
            os.replace(partial, folder / result.name)
    except OSError as error:
        raise DevError(
            f"--out: cannot write into {folder}: {error.strerror}. Make room there, or name another folder."
        ) from error
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)


def prepare_run(run: Path, options: DemoOptions) -> Path:
    """Fill the run's folder: the keyframes in its input, the workflow with the user's settings."""
    for kind in ("input", "output", "temp"):
        (run / kind).mkdir()
    pictures = {}
    for which, source in (("first", options.first), ("last", options.last)):
        pictures[which] = which + source.suffix.lower()
        shutil.copyfile(source, run / "input" / pictures[which])
    workflow = json.loads(DEMO_WORKFLOW.read_text(encoding="utf-8"))
    fill_workflow(workflow, pictures, options)
    path = run / "workflow.json"
    path.write_text(json.dumps(workflow), encoding="utf-8")
    return path


def fill_workflow(workflow: dict, pictures: dict[str, str], options: DemoOptions) -> None:
    """Set the keyframes by node title and the numbers by node type. Raises DevError if a node is missing."""
    for which, title in KEYFRAME_TITLES.items():
        nodes = [node for node in workflow.values() if node.get("_meta", {}).get("title") == title]
        if not nodes:
            raise DevError(f"{DEMO_WORKFLOW} has no node titled {title!r}.")
        nodes[0]["inputs"]["image"] = pictures[which]
    numbers = (
        ("InbetweenEncodeKeyframes", "frames", options.frames),
        ("InbetweenDualDirectionKSampler", "steps", options.steps),
        ("InbetweenDualDirectionKSampler", "seed", options.seed),
    )
    for class_type, name, value in numbers:
        nodes = [node for node in workflow.values() if node["class_type"] == class_type]
        if not nodes:
            raise DevError(f"{DEMO_WORKFLOW} has no {class_type} node.")
        if value is not None:
            nodes[0]["inputs"][name] = value


def run_script(host: Host, what: str, command: list[object], hint: str = "") -> None:
    """Run a script of ours with ComfyUI's Python. Raises DevError with the script's last words."""
    environment = clean_environment(PYTHONIOENCODING="utf-8", PYTHONDONTWRITEBYTECODE="1")
    result = subprocess.run(
        [str(host.python), *map(str, command)],
        env=environment,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
        raise DevError(f"{what} failed: {lines[-1]}" + (f" ({hint})" if hint else ""))
