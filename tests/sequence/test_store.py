"""Finished clips on disk: read whole or not at all, the oldest removed and nothing else."""

import errno
import os
from pathlib import Path

import pytest
import torch
from generative_inbetweening.sequence import store as sequence_files
from generative_inbetweening.sequence.store import FinishedClips

KEY, SHAPE = "0" * 31 + "1", (2, 4, 1, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_latents_of_every_number_format_are_kept(tmp_path, dtype):
    clips, latents = FinishedClips(tmp_path), torch.randn(SHAPE).to(dtype)
    clips.write(KEY, latents)
    assert torch.equal(clips.read(KEY, SHAPE), latents) and clips.read(KEY, SHAPE).dtype == dtype


@pytest.mark.parametrize(
    "latents",
    [
        torch.full(SHAPE, float("nan")),
        torch.zeros(SHAPE, dtype=torch.int32),
        torch.zeros(SHAPE, dtype=torch.bool),
        torch.zeros(SHAPE).to(torch.float8_e4m3fn),
        torch.zeros(2, 4),
    ],
)
def test_file_that_holds_no_latents_is_computed_again(tmp_path, caplog, latents):
    clips = FinishedClips(tmp_path)
    clips.write(KEY, latents)
    assert clips.read(KEY, SHAPE) is None and "is computed again" in caplog.text


def refused(*_, **__):
    raise PermissionError(errno.EPERM, "Operation not permitted")


def test_a_good_clip_of_another_user_is_taken_up(tmp_path, monkeypatch, caplog):
    clips = FinishedClips(tmp_path)
    clips.write(KEY, torch.ones(SHAPE))
    monkeypatch.setattr(sequence_files.os, "utime", refused)
    assert torch.equal(clips.read(KEY, SHAPE), torch.ones(SHAPE)) and not caplog.text


def test_what_cannot_be_removed_stays_and_the_others_go(tmp_path, monkeypatch):
    clips, keys_of_clips = FinishedClips(tmp_path), [f"{index:032x}" for index in range(4)]
    for age, key in enumerate(keys_of_clips):
        clips.write(key, torch.ones(SHAPE))
        os.utime(tmp_path / f"{key}.safetensors", (1e9 - age, 1e9 - age))
    unlink = Path.unlink
    monkeypatch.setattr(
        Path,
        "unlink",
        lambda path, *rest, **named: refused() if path.stem == keys_of_clips[2] else unlink(path, *rest, **named),
    )
    clips.remove_oldest(kept=1)
    assert sorted(path.stem for path in tmp_path.iterdir()) == [keys_of_clips[0], keys_of_clips[2]]


def test_a_clip_that_another_server_removes_meanwhile(tmp_path, monkeypatch):
    clips, names = FinishedClips(tmp_path), os.listdir(tmp_path)
    clips.write(KEY, torch.ones(SHAPE))
    gone = f"{'f' * 32}.safetensors"
    with monkeypatch.context() as late:
        late.setattr(sequence_files.os, "listdir", lambda _: [gone, f"{KEY}.safetensors", *names])
        clips.remove_oldest(kept=0)
    assert not list(tmp_path.iterdir())
    assert clips.read(KEY, SHAPE) is None


def test_oldest_files_are_removed_and_no_others(tmp_path):
    clips = FinishedClips(tmp_path)
    keys = [f"{index:032x}" for index in range(5)]
    for age, key in enumerate(keys):
        clips.write(key, torch.full((2, 4, 1, 1), float(age)))
        os.utime(tmp_path / f"{key}.safetensors", (1e9 - age, 1e9 - age))
    (tmp_path / "mine.safetensors").touch()
    assert torch.equal(clips.read(keys[4], (2, 4, 1, 1)), torch.full((2, 4, 1, 1), 4.0))
    clips.remove_oldest(kept=3)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"mine.safetensors", *(f"{keys[index]}.safetensors" for index in (0, 1, 4))}
    assert sequence_files.FILES_KEPT >= 100
