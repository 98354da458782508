"""As a user installs, into a clean ComfyUI: by ComfyUI Manager from a git address, and from the registry's archive.

What is installed is this checkout as it lies on the disk, committed or not, without what git ignores.
"""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from generative_inbetweening.nodes import NODES
from generative_inbetweening.tools.paths import PACK_NAME
from generative_inbetweening.tools.processes import clean_environment
from generative_inbetweening.tools.server import ADDRESS, free_port, stop, wait_until_ready
from generative_inbetweening.weights.folders import register_backward_motion_folder
from helpers.server import ROOT, Server, api_workflow, node_of, with_settings

register_backward_motion_folder()

HOST = Path(os.environ.get("INBETWEEN_COMFYUI", ROOT / ".comfyui")).resolve()
# Manager and comfy-cli install from the registry into a folder of this name.
REGISTRY_NAME = "generative-inbetweening"
# A clean ComfyUI: its code alone. Bytecode is copied, too, which halves the start of its server.
NOT_COPIED = {".git", ".venv", "venv", "custom_nodes", "models", "input", "output", "temp", "user", "tests"}
PRODUCT = (
    "common",
    "inspection",
    "nodes",
    "sampler",
    "sequence",
    "subgraphs",
    "weights",
    "web",
    "workflows",
    "locales",
)
PRODUCT_FILES = {"__init__.py", "generative_inbetweening.py", "pyproject.toml", "requirements.txt"}
PAGES = {"README.md", "LICENSE", "CHANGELOG.md"}

pytestmark = [
    pytest.mark.install,
    pytest.mark.skipif(not (ROOT / ".git").exists() or not shutil.which("git"), reason="needs a git checkout"),
]


def run(*command: object, cwd: Path, **environment: object) -> str:
    """A command's output. Raises CalledProcessError, and shows the output, if it fails."""
    # A git hook that runs the tests must not lead the commands to its own repository.
    clean = {name: value for name, value in clean_environment(**environment).items() if not name.startswith("GIT_")}
    words = [str(part) for part in command]
    result = subprocess.run(
        words,
        cwd=cwd,
        env=clean,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        timeout=240,
    )
    if result.returncode:
        print(" ".join(words), result.stdout, sep="\n")
    result.check_returncode()
    return result.stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository of one commit: this checkout's files."""
    folder = tmp_path_factory.mktemp("repository") / PACK_NAME
    names = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    for name in names:
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    run("git", "init", "--quiet", cwd=folder)
    run("git", "add", "--all", cwd=folder)
    author = ("-c", "user.name=tests", "-c", "user.email=tests@localhost", "-c", "commit.gpgsign=false")
    run("git", *author, "commit", "--quiet", "--message", "Everything", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def archive(repository: Path, install_tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """node.zip, as `comfy node publish` would upload it."""
    tools, home = install_tools, tmp_path_factory.mktemp("home")
    run(tools / "comfy", "--skip-prompt", "tracking", "disable", cwd=repository, HOME=home)
    run(tools / "comfy", "--skip-prompt", "node", "pack", cwd=repository, HOME=home)
    return repository / "node.zip"


def clean_comfyui(folder: Path) -> Path:
    """A ComfyUI without custom nodes and models; the demo's pictures and weights are where a user puts theirs."""
    comfyui = folder / "ComfyUI"
    # The names count at the top only: ComfyUI's code has folders called models, too.
    shutil.copytree(HOST, comfyui, ignore=lambda place, _: NOT_COPIED if Path(place) == HOST else ())
    for name in ("custom_nodes", "models/checkpoints", "models/backward_motion", "input", "output"):
        (comfyui / name).mkdir(parents=True)
    for name, place in (
        ("first.png", "input"),
        ("last.png", "input"),
        ("demo_svd.safetensors", "models/checkpoints"),
        ("demo_backward_motion.safetensors", "models/backward_motion"),
    ):
        shutil.copyfile(ROOT / "demo" / name, comfyui / place / name)
    return comfyui


@contextmanager
def started(comfyui: Path) -> Iterator[Server]:
    """Its server, started as a user starts it."""
    port, log = free_port(), comfyui.parent / "server.log"
    options = (
        "--cpu",
        "--listen",
        ADDRESS,
        "--port",
        str(port),
        "--disable-auto-launch",
        "--disable-api-nodes",
        "--database-url",
        "sqlite:///:memory:",
    )
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "main.py", *options],
            cwd=comfyui,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=os.name != "nt",
            env=clean_environment(PYTHONIOENCODING="utf-8", PYTHONUNBUFFERED="1"),
        )
    try:
        wait_until_ready(process, port, log)
        yield Server(f"http://{ADDRESS}:{port}", comfyui)
    finally:
        stop(process)


def check_that_it_works(comfyui: Path, name: str) -> None:
    """All nodes are there; workflows, blueprints, help pages are served; README's command and a small workflow run."""
    pack = comfyui / "custom_nodes" / name
    with started(comfyui) as server:
        _, nodes = server.ask("GET", "/object_info")
        for node in NODES:
            schema = node.define_schema()
            assert nodes[schema.node_id]["python_module"] == f"custom_nodes.{name}"
            for file in (f"{schema.node_id}.md", f"{schema.node_id}.jpg"):
                assert server.ask("GET", f"/extensions/{name}/docs/{file}")[0] == 200, file
        workflows = {path.stem for path in (pack / "workflows").glob("*.json")}
        assert "generative_inbetweening" in workflows
        assert set(server.ask("GET", "/workflow_templates")[1][name]) == workflows
        for file in (f"{workflow}.{kind}" for workflow in workflows for kind in ("json", "jpg")):
            assert server.ask("GET", f"/api/workflow_templates/{name}/{file}")[0] == 200, file
        listed = [
            each["name"] for each in server.ask("GET", "/global_subgraphs")[1].values() if name in str(each["info"])
        ]
        assert listed and set(listed) == {path.stem for path in (pack / "subgraphs").glob("*.json")}
        workflow = api_workflow("generative_inbetweening")
        result = server.run(with_settings(workflow, steps=2, reinjections=0))
        assert len(server.view(result.file(node_of(workflow, "SaveVideo")))) > 500
    assert list((comfyui / "output" / "video").glob("inbetween*.mp4"))
    command, *_ = re.findall(r"`python (weights inspect) FILE", (pack / "README.md").read_text(encoding="utf-8"))
    file = Path("..", "..", "models", "backward_motion", "demo_backward_motion.safetensors")
    assert "10 temporal attentions" in run(sys.executable, *command.split(), file, cwd=pack)


def test_manager_installs_it_from_a_git_address(repository: Path, install_tools: Path, tmp_path: Path):
    comfyui, tools = clean_comfyui(tmp_path), install_tools
    served = tmp_path / "served" / f"{PACK_NAME}.git"
    run("git", "clone", "--quiet", "--bare", repository, served, cwd=tmp_path)
    address = f"file://localhost{served.as_posix()}"
    output = run(tools / "cm-cli", "install", address, cwd=tmp_path, COMFYUI_PATH=comfyui, HOME=tmp_path)
    # cm-cli ends with 0 when an installation fails, too.
    assert "[INSTALLED]" in output
    installed = comfyui / "custom_nodes" / PACK_NAME
    assert run("git", "rev-parse", "HEAD", cwd=installed) == run("git", "rev-parse", "HEAD", cwd=repository)
    check_that_it_works(comfyui, PACK_NAME)


def test_archive_holds_what_users_need(repository: Path, archive: Path):
    tracked = set(run("git", "ls-files", "-z", cwd=repository).split("\0")) - {""}
    with zipfile.ZipFile(archive) as zipped:
        names = set(zipped.namelist())
    files = {name for name in tracked if name.partition("/")[0] in PRODUCT}
    assert {name.partition("/")[0] for name in files} == set(PRODUCT)
    # git's and the registry's own files may be there, too.
    assert names - {".gitignore", ".comfyignore"} == files | PRODUCT_FILES | PAGES


def test_unpacked_archive_works(archive: Path, tmp_path: Path):
    comfyui = clean_comfyui(tmp_path)
    with zipfile.ZipFile(archive) as zipped:
        zipped.extractall(comfyui / "custom_nodes" / REGISTRY_NAME)
    check_that_it_works(comfyui, REGISTRY_NAME)


def test_no_page_needs_the_folders_name():
    """A clone and an installation from the registry lie in folders of different names."""
    names = f"({PACK_NAME}|{REGISTRY_NAME})"
    for path in [
        ROOT / "README.md",
        *(ROOT / "web").rglob("*.md"),
        *(ROOT / "locales").rglob("*.json"),
        *(ROOT / "subgraphs").glob("*.json"),
        *(ROOT / "workflows").glob("*.json"),
    ]:
        needed = re.search(rf"(custom_nodes/{names}/|Templates\W+{names}).*", path.read_text(encoding="utf-8"))
        assert not needed, f"{path.name}: {needed[0]}"
