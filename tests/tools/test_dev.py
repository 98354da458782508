"""The commands of dev.py as a user runs them: what they refuse, and the real demo and server."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from generative_inbetweening.tools.demo import replace_together
from generative_inbetweening.tools.processes import DevError
from helpers.dev_checkout import ROOT, Checkout, one_sentence, write_comfyui

POSIX = pytest.mark.skipif(os.name == "nt", reason="signals and links as on Linux and macOS")


def test_comfyui_option_names_a_folder_that_is_none(checkout: Checkout, tmp_path: Path) -> None:
    sentence = one_sentence(checkout.run("benchmark", "probe", "--comfyui", tmp_path))
    assert f"--comfyui: {tmp_path} is no ComfyUI folder" in sentence and "main.py" in sentence


def test_comfyui_option_names_one_that_is_too_old(checkout: Checkout, tmp_path: Path) -> None:
    comfyui = write_comfyui(tmp_path / "ComfyUI")
    (comfyui / "comfyui_version.py").write_text('__version__ = "0.3.40"\n')
    sentence = one_sentence(checkout.run("benchmark", "probe", "--comfyui", comfyui))
    assert "0.3.40" in sentence and "0.3.75 or newer" in sentence


def test_python_option_names_one_without_packages(checkout: Checkout, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    python = next((tmp_path / "bare").glob("[bS]*/python*"))
    options = ["--comfyui", write_comfyui(tmp_path / "ComfyUI"), "--python", python]
    sentence = one_sentence(checkout.run("benchmark", "probe", *options))
    assert f"--python: {python} does not run or lacks ComfyUI's packages" in sentence
    assert "give --comfyui PATH" in one_sentence(checkout.run("benchmark", "probe", "--python", python))


@pytest.mark.install
def test_tests_run_with_the_packages_of_an_existing_comfyui(checkout: Checkout, tmp_path: Path) -> None:
    comfyui = write_comfyui(tmp_path / "ComfyUI")
    before = sorted(comfyui.rglob("*"))
    (checkout.folder / "requirements-dev.txt").write_text("stilllife==1.0\n")
    (checkout.folder / "test_probe.py").write_text(
        "import os, aiohttp, pytest, stilllife, torch\n"
        "def test_host():\n"
        f"    assert os.environ['INBETWEEN_COMFYUI'] == {str(comfyui)!r}\n"
        "@pytest.mark.slow\n"
        "def test_slow():\n"
        "    pass\n"
    )
    options = ["--comfyui", comfyui, "--python", sys.executable, "-p", "no:cacheprovider", "-q"]
    # Any file will do for a browser that no test opens.
    result = checkout.run("test", *options, INBETWEEN_CHROMIUM=sys.executable)
    assert result.returncode == 0 and "2 passed" in result.stdout, result.stdout + result.stderr
    result = checkout.run("test", "--fast", *options, INBETWEEN_CHROMIUM=sys.executable)
    assert result.returncode == 0 and "1 passed" in result.stdout, result.stdout + result.stderr
    nothing_selected = 5
    result = checkout.run("test", *options, "-k", "nothing", INBETWEEN_CHROMIUM=sys.executable)
    assert result.returncode == nothing_selected
    assert sorted(comfyui.rglob("*")) == before
    assert not (checkout.folder / ".venv").exists()


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


def real_host() -> list[object]:
    """Options that name the ComfyUI of this test run."""
    folder = Path(os.environ.get("INBETWEEN_COMFYUI", ROOT / ".comfyui"))
    if not (folder / "main.py").is_file():
        pytest.skip("no ComfyUI here; run python dev.py test")
    return ["--comfyui", folder, "--python", sys.executable]


@POSIX
def test_demo_replaces_both_results_or_none(tmp_path: Path) -> None:
    """Where there is room for one file only, as on a full disk."""
    import resource

    out, run = tmp_path / "out", tmp_path / "run"
    out.mkdir()
    run.mkdir()
    results = {"inbetween.mp4": run / "1.mp4", "contact_sheet.png": run / "2.png"}
    for (name, result), size in zip(results.items(), (10_000, 500_000)):
        result.write_bytes(b"n" * size)
        (out / name).write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(DevError, match=f"^--out: cannot write into {re.escape(str(out))}: .*Make room"):
            replace_together(results, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == dict.fromkeys(results, b"old")
    replace_together(results, out)
    assert {path.name: path.read_bytes()[:3] for path in out.iterdir()} == dict.fromkeys(results, b"nnn")


@POSIX
def test_demo_follows_no_link_that_waits_for_it(tmp_path: Path) -> None:
    out, result, precious = tmp_path / "out", tmp_path / "new", tmp_path / "precious"
    out.mkdir()
    result.write_bytes(b"new")
    precious.write_bytes(b"mine")
    names = ("inbetween.mp4", "contact_sheet.png")
    for name in names:
        (out / name).symlink_to(precious)
    replace_together(dict.fromkeys(names, result), out)
    assert precious.read_bytes() == b"mine" and [(out / name).read_bytes() for name in names] == [b"new", b"new"]


@pytest.mark.server
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
    # The Contact Sheet node's: the four frames between the two keyframes as they were given, both framed in orange.
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.size == (3 * 262 + 6, 2 * 286 + 6)
        rgb = sheet.convert("RGB")
        corners = [rgb.getpixel((8 + 262 * column, 8 + 286 * row)) for row in range(2) for column in range(3)]
    assert [corner == (255, 176, 0) for corner in corners] == [True, False, False, False, False, True]


@pytest.mark.server
@POSIX
def test_serve_opens_on_the_example_workflow_and_stops_with_its_server() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, ROOT / "dev.py", "serve", *real_host(), "--no-browser", "--port", port]
    # A run in the background hands on that Ctrl-C is to be ignored; a terminal does not.
    heeded = {} if os.name == "nt" else {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", **heeded
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
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)
        process.stdout.close()
