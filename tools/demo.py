"""The demo: the shipped workflow on two keyframes through a real server, to a video and a contact sheet."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from argparse import Namespace
from pathlib import Path

from ..common.atomic_write import atomic_write
from .host import Host
from .paths import DEMO, DEMO_WORKFLOW, RUNS, STATE
from .processes import DevError, clean_environment, say
from .server import ADDRESS, free_port, running_server

RUN_WORKFLOW = Path(__file__).with_name("run_workflow.py")
VIDEO, SHEET = "inbetween.mp4", "contact_sheet.png"
# What the shipped model is and is not, in its makers' words.
ABOUT = DEMO / "about.txt"


def check_options(options: Namespace) -> None:
    """Raises DevError before the long work if a file is missing or the folder cannot be made."""
    for option, path in (("--first", options.first), ("--last", options.last)):
        if not path.is_file():
            raise DevError(f"{option}: there is no picture {path}.")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=options.out).close()
    except OSError as error:
        raise DevError(f"--out: cannot write into {options.out}: {error.strerror}.") from error


def run_demo(host: Host, options: Namespace) -> None:
    """Make inbetween.mp4 and contact_sheet.png in `options.out`. Raises DevError."""
    RUNS.mkdir(parents=True, exist_ok=True)
    log = STATE / "demo-server.log"
    with tempfile.TemporaryDirectory(dir=RUNS, prefix="demo-", ignore_cleanup_errors=True) as name:
        run = Path(name)
        workflow = prepare_run(run, options)
        folders = [part for kind in ("input", "output", "temp") for part in (f"--{kind}-directory", run / kind)]
        port = free_port()
        with running_server(host, port, log, "--disable-api-nodes", *folders):
            say(f"Running {DEMO_WORKFLOW.name} on {options.first.name} and {options.last.name}.")
            result = subprocess.run(
                [str(part) for part in (host.python, RUN_WORKFLOW, f"http://{ADDRESS}:{port}", workflow)],
                env=clean_environment(PYTHONIOENCODING="utf-8", PYTHONDONTWRITEBYTECODE="1"),
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                check=False,
            )
        if result.returncode:
            reason = (result.stderr.strip() or f"exit code {result.returncode}").splitlines()[-1]
            raise DevError(f"The workflow failed: {reason} (the server's output is in {log})")
        videos, sheets = (sorted((run / "output").rglob(pattern)) for pattern in ("*.mp4", "*.png"))
        if not videos or not sheets:
            raise DevError(f"The workflow saved no mp4 video (the server's output is in {log}).")
        replace_together({VIDEO: videos[0], SHEET: sheets[0]}, options.out)
    if ABOUT.is_file():
        say(ABOUT.read_text(encoding="utf-8").strip())
    say(f"Video: {options.out / VIDEO}")
    say(f"Contact sheet: {options.out / SHEET}")


def prepare_run(run: Path, options: Namespace) -> Path:
    """Fill the run's folder: the keyframes in its input, and the workflow with the settings that the user gave."""
    for kind in ("input", "output", "temp"):
        (run / kind).mkdir()
    workflow = json.loads(DEMO_WORKFLOW.read_text(encoding="utf-8"))
    for title, source in (("First Keyframe", options.first), ("Last Keyframe", options.last)):
        picture = title.replace(" ", "_") + source.suffix.lower()
        shutil.copyfile(source, run / "input" / picture)
        workflow[node_of(workflow, title)]["inputs"]["image"] = picture
    sampler = workflow[node_of(workflow, "Dual-Direction KSampler")]["inputs"]
    for inputs, name in ((workflow[node_of(workflow, "Encode Keyframes")]["inputs"], "frames"), (sampler, "seed")):
        if getattr(options, name) is not None:
            inputs[name] = getattr(options, name)
    if options.steps is not None:
        settings = {"preset": sampler["preset"], "steps": options.steps}
        workflow["settings"] = {"class_type": "InbetweenSettings", "inputs": settings}
        sampler["settings"] = ["settings", 0]
    add_contact_sheet(workflow)
    path = run / "workflow.json"
    path.write_text(json.dumps(workflow), encoding="utf-8")
    return path


def node_of(workflow: dict, title: str) -> str:
    """The id of the node of that title. Raises DevError if there is none."""
    for node, content in workflow.items():
        if content.get("_meta", {}).get("title") == title:
            return node
    raise DevError(f"{DEMO_WORKFLOW} has no node titled {title!r}.")


def add_contact_sheet(workflow: dict) -> None:
    """Let the workflow save a contact sheet of the video between the two keyframes as they were given."""
    first, last, frames = (node_of(workflow, title) for title in ("First Keyframe", "Last Keyframe", "VAE Decode"))
    size = workflow[node_of(workflow, "Encode Keyframes")]["inputs"]
    scale = {"upscale_method": "lanczos", "width": size["width"], "height": size["height"], "crop": "center"}
    for node, class_type, inputs in (
        ("first", "ImageScale", {"image": [first, 0], **scale}),
        ("last", "ImageScale", {"image": [last, 0], **scale}),
        ("start", "ImageBatch", {"image1": ["first", 0], "image2": [frames, 0]}),
        ("all", "ImageBatch", {"image1": ["start", 0], "image2": ["last", 0]}),
        ("sheet", "InbetweenContactSheet", {"images": ["all", 0], "columns": 0, "keyframes": "0, -1"}),
        ("save", "SaveImage", {"images": ["sheet", 0], "filename_prefix": "contact_sheet"}),
    ):
        workflow[node] = {"class_type": class_type, "inputs": inputs}


def replace_together(results: dict[str, Path], folder: Path) -> None:
    """Copy all results into the folder under their new names, or none of them. Raises DevError."""
    (video, sheet) = results
    try:
        with atomic_write(folder / video) as new_video, atomic_write(folder / sheet) as new_sheet:
            shutil.copyfile(results[video], new_video)
            shutil.copyfile(results[sheet], new_sheet)
    except OSError as error:
        raise DevError(
            f"--out: cannot write into {folder}: {error.strerror}. Make room there, or name another folder."
        ) from error
