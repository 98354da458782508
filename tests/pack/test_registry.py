"""What the registry and ComfyUI Manager read: the registry's own tool lets wrong fields pass."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

try:
    import tomllib
except ModuleNotFoundError:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PACK_FOLDER = "ComfyUI-GenerativeInbetweening"
OLDEST_COMFYUI = "0.3.75"
SEMANTIC_VERSION = r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"


@pytest.fixture(scope="module")
def configuration() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def project(configuration: dict) -> dict:
    return configuration["project"]


@pytest.fixture(scope="module")
def comfy(configuration: dict) -> dict:
    return configuration["tool"]["comfy"]


def requirements(path: Path) -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def test_name_and_version(project: dict) -> None:
    assert project["name"] == "generative-inbetweening"
    assert len(project["name"]) < 100 and re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", project["name"])
    assert re.fullmatch(SEMANTIC_VERSION, project["version"])


def test_words_for_the_reader(project: dict) -> None:
    assert 20 <= len(project["description"]) <= 200 and "\n" not in project["description"]
    assert project["readme"] == "README.md"


def test_licence_is_the_whole_gpl(project: dict) -> None:
    assert project["license"] == {"file": "LICENSE"}
    words = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "GNU GENERAL PUBLIC LICENSE\n                       Version 3, 29 June 2007" in words
    assert "END OF TERMS AND CONDITIONS" in words and "How to Apply These Terms" in words


def test_python_versions(project: dict) -> None:
    pythons = SpecifierSet(project["requires-python"])
    assert "3.9" not in pythons
    assert all(version in pythons for version in ("3.10", "3.11", "3.12", "3.13"))


def test_classifiers(project: dict) -> None:
    known = {"Development Status", "Environment", "Operating System", "Programming Language", "Topic"}
    assert {classifier.split(" :: ")[0] for classifier in project["classifiers"]} <= known
    assert "Operating System :: OS Independent" in project["classifiers"]
    # The registry takes the licence from its own field; index tools refuse it in both places.
    assert not any(classifier.startswith("License") for classifier in project["classifiers"])


def test_addresses(project: dict) -> None:
    urls = project["urls"]
    assert set(urls) == {"Homepage", "Repository", "Documentation", "Issues"}
    assert re.fullmatch(rf"https://github\.com/[A-Za-z0-9-]+/{PACK_FOLDER}", urls["Repository"])
    assert all(url.startswith(urls["Repository"]) for url in urls.values())


def test_publisher_and_names(comfy: dict) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", comfy["PublisherId"])
    assert comfy["DisplayName"] == "Generative Inbetweening"
    for picture in ("Icon", "Banner"):
        assert comfy.get(picture, "https://").startswith("https://")


def test_oldest_comfyui(comfy: dict) -> None:
    versions = SpecifierSet(comfy["requires-comfyui"])
    assert OLDEST_COMFYUI in versions and "0.25.0" in versions
    assert "0.3.74" not in versions


def test_known_fields_only(comfy: dict) -> None:
    # `web` would register the help pages under the project's name, where the user interface does not look.
    assert set(comfy) <= {"PublisherId", "DisplayName", "Icon", "Banner", "requires-comfyui", "includes"}


def test_manager_and_registry_install_the_same(project: dict) -> None:
    listed = {str(requirement) for requirement in requirements(ROOT / "requirements.txt")}
    assert listed == {str(Requirement(line)) for line in project["dependencies"]}


def test_nothing_replaces_what_comfyui_brings(project: dict) -> None:
    brought = {canonicalize_name(requirement.name) for requirement in requirements(ROOT / "requirements-host.txt")}
    assert {"torch", "numpy", "einops", "safetensors"} <= brought
    assert not brought & {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}


def test_extras_are_what_the_tests_run_with(project: dict) -> None:
    pins: dict[str, list[Requirement]] = {}
    for name in ("requirements-host.txt", "requirements-dev.txt"):
        for requirement in requirements(ROOT / name):
            pins.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    for line in [line for extra in project["optional-dependencies"].values() for line in extra]:
        wanted = Requirement(line)
        assert canonicalize_name(wanted.name) in pins, f"{wanted.name} is pinned in no requirements file"
        for pin in pins[canonicalize_name(wanted.name)]:
            version = re.fullmatch(r"==(.+)", str(pin.specifier))
            assert version and version.group(1) in wanted.specifier, f"{pin} is not in {wanted}"


def test_requirement_files_pin_every_package() -> None:
    for name in ("requirements-host.txt", "requirements-dev.txt"):
        for requirement in requirements(ROOT / name):
            assert re.fullmatch(r"==[0-9][0-9.]*", str(requirement.specifier)), f"{name}: {requirement}"


def test_one_ruff_decides() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    pinned = {str(requirement) for requirement in requirements(ROOT / "requirements-dev.txt")}
    assert set(re.findall(r"ruff==[0-9.]+", hooks)) == {line for line in pinned if line.startswith("ruff==")}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="git decides what is ignored")
@pytest.mark.parametrize(
    ("path", "shipped"),
    [
        ("__init__.py", True),
        ("nodes/load.py", True),
        ("sampler/guider.py", True),
        ("weights/convert.py", True),
        ("generative_inbetweening.py", True),
        ("common/errors.py", True),
        ("sequence/plan.py", True),
        ("inspection/sheet.py", True),
        ("workflows/generative_inbetweening.json", True),
        ("subgraphs/Generative Inbetweening.json", True),
        ("web/docs/Node.md", True),
        ("locales/es/main.json", True),
        ("requirements.txt", True),
        ("pyproject.toml", True),
        ("LICENSE", True),
        ("README.md", True),
        ("demo/first.png", False),
        ("demo/model/train.py", False),
        ("training/fine_tune.py", False),
        ("docs/training.md", False),
        ("requirements-comfyui.txt", False),
        (".pre-commit-config.yaml", False),
        ("tests/sampler/test_parity.py", False),
        ("tests/reference/plain.safetensors", False),
        (".ci/run", False),
        (".github/workflows/test.yml", False),
        ("demo/demo_svd.safetensors", False),
        ("demo/demo_backward_motion.safetensors", False),
        (".dev/base/input/first.png", False),
        (".comfyui/main.py", False),
        (".venv/pyvenv.cfg", False),
        ("demo_output/inbetween.mp4", False),
        ("benchmarks/results/quality.json", False),
        ("dev.py", False),
        ("tools/host.py", False),
    ],
)
def test_package_holds_what_users_need(path: str, shipped: bool) -> None:
    """.comfyignore has the syntax of .gitignore, so git itself is asked."""
    options = ["-c", f"core.excludesFile={ROOT / '.comfyignore'}"]
    command = ["git", *options, "check-ignore", "--no-index", "--verbose", path]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    ignored = answer.returncode == 0
    assert ignored != shipped, answer.stdout or "not ignored"


def test_one_folder_of_web_files() -> None:
    source = (ROOT / "__init__.py").read_text(encoding="utf-8")
    assert re.search(r"^WEB_DIRECTORY\s*=\s*[\"']\./web[\"']", source, re.MULTILINE)
    assert "NODE_CLASS_MAPPINGS" not in source


@pytest.mark.parametrize("workflow", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.name)
def test_actions_are_named_by_commit(workflow: Path) -> None:
    """A tag can be moved to other code, which would then get the registry's token."""
    used = re.findall(r"^\s*-?\s*uses:\s*(\S+)", workflow.read_text(encoding="utf-8"), re.MULTILINE)
    assert used and all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in used)
