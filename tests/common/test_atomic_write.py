"""Files are written whole or not at all, reach the disk before their name does, and leave nothing behind."""

import errno
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from generative_inbetweening.common import atomic_write as module
from generative_inbetweening.common.atomic_write import atomic_write
from generative_inbetweening.common.errors import WeightsError, plain_name, quoted
from generative_inbetweening.weights.files import read_tensors, save_tensors

PACK = Path(__file__).resolve().parents[2]
posix = pytest.mark.skipif(os.name == "nt", reason="folders cannot be locked or synced on Windows")


def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(KeyError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.json"]
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a.json"]


@pytest.fixture
def writer(tmp_path):
    """A living process that has written half of `big.safetensors`."""
    script = (
        f"import sys, time; sys.path.insert(0, {str(PACK)!r})\nfrom pathlib import Path\n"
        "from generative_inbetweening.common.atomic_write import atomic_write\n"
        "with atomic_write(Path('big.safetensors')) as temporary:\n"
        "    temporary.write_bytes(b'x' * 1000); (temporary.parent / '.tmpAbCdEf').write_bytes(b'y')\n"
        "    print('half', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "half\n"
        yield process
        process.kill()


@pytest.mark.slow
@posix
def test_what_a_killed_writer_left_goes_at_the_next_write_there_and_a_living_one_keeps_his(writer, tmp_path):
    save_tensors(tmp_path / "other.safetensors", {"a": torch.zeros(1)}, {})
    kept = [path for path in tmp_path.iterdir() if path.name.endswith(".partial")]
    assert len(kept) == 1 and kept[0].name.startswith(".big.safetensors.")
    writer.kill()
    writer.wait()
    save_tensors(tmp_path / "third.safetensors", {"a": torch.zeros(1)}, {})
    assert sorted(os.listdir(tmp_path)) == ["other.safetensors", "third.safetensors"]


def test_only_our_own_old_files_are_removed(tmp_path):
    ours, young, foreign = (
        tmp_path / name
        for name in (".a.safetensors.0a1b2c3d.partial", ".b.safetensors.0a1b2c3d.partial", "download.partial")
    )
    for path in (ours, young, foreign):
        path.write_bytes(b"half")
    for path in (ours, foreign):
        os.utime(path, (time.time() - 2 * 24 * 3600,) * 2)
    with atomic_write(tmp_path / "c.json") as temporary:
        temporary.write_text("{}")
    assert sorted(os.listdir(tmp_path)) == [young.name, "c.json", foreign.name]


@posix
def test_a_link_named_like_a_leftover_is_not_followed(tmp_path):
    folder, precious = tmp_path / "here", tmp_path / "elsewhere"
    folder.mkdir()
    precious.mkdir()
    (precious / "file").write_text("mine")
    (folder / ".a.safetensors.0a1b2c3d.partial").symlink_to(precious)
    with atomic_write(folder / "b.json") as temporary:
        temporary.write_text("{}")
    assert (precious / "file").read_text() == "mine"


@posix
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_new_files_have_the_mode_of_new_files_and_the_umask_is_never_touched(tmp_path, monkeypatch, mask):
    before = os.umask(mask)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", lambda _: pytest.fail("another thread's new file would get this mode"))
            save_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(1)}, {})
            with atomic_write(tmp_path / "a.json") as temporary:
                temporary.write_text("{}")
    finally:
        os.umask(before)
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in os.listdir(tmp_path)} == {0o666 & ~mask}


@posix
def test_the_file_is_on_the_disk_before_its_name_is(tmp_path, monkeypatch):
    calls = []

    def recorded(name, show):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *given: (calls.append(show(*given)), original(*given))[1])

    recorded("fsync", lambda descriptor: ("fsync", os.fstat(descriptor).st_ino))
    recorded("replace", lambda source, target: ("replace", os.stat(source).st_ino))
    save_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(1)}, {})
    file, folder = (tmp_path / "a.safetensors").stat().st_ino, tmp_path.stat().st_ino
    assert calls == [("fsync", file), ("replace", file), ("fsync", folder)]


@posix
def test_a_disk_that_knows_neither_modes_nor_synced_folders(tmp_path, monkeypatch):
    original = os.fsync

    def files_only(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        original(descriptor)

    def no_modes(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "fsync", files_only)
    monkeypatch.setattr(os, "chmod", no_modes)
    with atomic_write(tmp_path / "a.json") as temporary:
        temporary.write_text("{}")
    assert (tmp_path / "a.json").read_text() == "{}" and os.listdir(tmp_path) == ["a.json"]


def test_the_longest_name_that_a_disk_takes(tmp_path):
    save_tensors(tmp_path / ("ü" * 120 + ".st"), {"a": torch.ones(1)}, {})
    assert read_tensors(tmp_path / ("ü" * 120 + ".st"))["a"] == 1
    with pytest.raises(WeightsError, match="Could not write .*File name too long"):
        save_tensors(tmp_path / ("a" * 300), {"a": torch.ones(1)}, {})
    assert len(os.listdir(tmp_path)) == 1


@pytest.mark.parametrize("name", ["\ud800", "a\nb", "a\0b", "x" * 10**7, "'\"\\", "\x1b[2J"])
def test_a_name_from_outside_can_be_written_anywhere(name):
    for shown in (quoted(name), plain_name(name)):
        assert shown.encode() and shown.isprintable() and len(shown) < 130 and shown[0] in "'\""


def test_ordinary_names_stay_as_they_are():
    assert plain_name("Wolke 7 – ü (1).safetensors") == "Wolke 7 – ü (1).safetensors"
    assert "\n" not in quoted(torch.zeros(3, 3))
    assert quoted("euler") == "'euler'" and quoted(3.5) == "3.5" and quoted(None) == "None"


def test_there_is_a_lock_on_every_system_that_has_one():
    assert (module.fcntl is None) == (os.name == "nt")
