"""Sequences of keyframes with the real nodes: frames in their places, loops, subdivisions, interrupted runs, files."""

import errno
import logging
import signal
import subprocess
import sys
from pathlib import Path

import comfy.model_management
import latent_preview
import pytest
import torch
from generative_inbetweening.sampler import memory_limit
from generative_inbetweening.sequence import run as sequence_run
from generative_inbetweening.sequence.plan import (
    clip_seed,
)
from helpers.sequences import keyframes, sequence
from helpers.small_model import SETTINGS, encode, sample

from nodes import VAEDecode

KILLED_DURING_THIRD = """
import os, signal, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + '/..']
from generative_inbetweening.tools.host import import_host
import_host()
import pathlib, folder_paths
from generative_inbetweening.sequence import run as sequence_run
from helpers.sequences import keyframes, sequence
from helpers.small_model import load
folder_paths.set_output_directory(sys.argv[2])
original, calls = sequence_run.dual_direction_ksampler, []
def killed(*arguments):
    calls.append(arguments)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)
sequence_run.dual_direction_ksampler = killed
sequence(load(pathlib.Path(sys.argv[3])), keyframes(4))
"""


def test_two_keyframes_are_the_ksamplers_video(models):
    images, latents = sequence(models, keyframes(2), steps=SETTINGS["steps"])
    expected = sample(models[0], encode(models))
    assert torch.equal(latents, expected)
    assert torch.equal(images, VAEDecode().decode(models[2], {"samples": expected})[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "alternating", "sampler_name": "heun"}, "sampler_name: expected euler, found heun"),
        (
            {"frames_per_segment": "4, 9"},
            "width: expected a video that fits.*9 frames at 64x64.*choose fewer frames",
        ),
    ],
)
def test_what_no_segment_could_be_sampled_with_is_said_of_its_input_before_anything_is_done(
    models, sampled, monkeypatch, changes, message
):
    monkeypatch.setattr(memory_limit, "memory_limit", lambda device: 1000.0)
    with pytest.raises(ValueError, match=message):
        sequence(models, keyframes(2 if changes.get("loop") else 3), **changes)
    assert not sampled


def test_four_keyframes_each_once_and_in_their_places(models, sampled):
    images, latents = sequence(models, keyframes(4))
    assert len(images) == len(latents) == 3 * 3 + 1 and torch.isfinite(images).all()
    assert sampled == [(4, clip_seed(1, (index,))) for index in range(3)]
    changes = (images[1:] - images[:-1]).abs().mean(dim=(1, 2, 3))
    assert changes.min() > 1e-4


def test_segments_are_their_own_clips_joined_at_the_shared_keyframe(models, sampled):
    images, latents = sequence(models, keyframes(3), frames_per_segment="3, 4")
    assert [frames for frames, _ in sampled] == [3, 4] and len(images) == 3 + 4 - 1
    _, left = sequence(models, keyframes(2), frames_per_segment="3")
    # The frame at the shared keyframe is the last of the segment that ends there.
    assert torch.equal(latents[:3], left)
    assert torch.equal(images[:3], VAEDecode().decode(models[2], {"samples": left})[0])


def test_loop_leads_back_and_shows_the_first_keyframe_once(models, sampled):
    images, latents = sequence(models, keyframes(3), loop=True)
    assert len(images) == len(latents) == 3 * 3
    open_end, _ = sequence(models, keyframes(3))
    assert torch.equal(images[:7], open_end)
    assert [seed for _, seed in sampled] == [clip_seed(1, (index,)) for index in range(3)]


def test_seamless_loop_of_one_picture(models):
    images, _ = sequence(models, keyframes(1), loop=True)
    assert len(images) == 3


def test_loop_whose_first_and_last_keyframes_are_equal(models, caplog):
    caplog.set_level(logging.INFO)
    closed = torch.cat([keyframes(2), keyframes(1)])
    images, _ = sequence(models, closed, loop=True)
    assert "is left out" in caplog.text
    assert torch.equal(images, sequence(models, keyframes(2), loop=True)[0])


def test_a_closed_loop_ends_with_the_very_frame_that_it_begins_with(models, sampled):
    images, latents = sequence(models, keyframes(2), loop=True)
    sampled.clear()
    closed, closed_latents = sequence(models, keyframes(2), loop=True, close_loop=True)
    assert len(closed) == len(closed_latents) == len(images) + 1 and not sampled
    assert torch.equal(closed[:-1], images) and torch.equal(closed[-1], images[0])
    assert torch.equal(closed_latents[:-1], latents) and torch.equal(closed_latents[-1], latents[0])


@pytest.mark.parametrize("changes", [{"frames_per_segment": "3", "subdivisions": 1}, {}])
def test_a_loop_of_every_kind_can_be_closed(models, changes):
    images, _ = sequence(models, keyframes(1), loop=True, close_loop=True, **changes)
    assert len(images) == (5 if changes.get("subdivisions") else 4) and torch.equal(images[-1], images[0])
    assert not torch.equal(images[-2], images[0])


def test_subdivision_puts_clips_between_the_frames(models, sampled, caplog):
    caplog.set_level(logging.INFO)
    images, latents = sequence(models, keyframes(2), frames_per_segment="3", subdivisions=1)
    assert len(images) == len(latents) == 2 * 2 + 1
    assert len(sampled) == 3 and len({seed for _, seed in sampled}) == 3
    # 3 clips of 1 step of 4 videos.
    assert "3 clips to sample, 3 sampler steps in all, that is at most 12 videos through the UNet" in caplog.text
    sampled.clear()
    again, _ = sequence(models, keyframes(2), frames_per_segment="3", subdivisions=1)
    assert not sampled and torch.equal(again, images)


def test_one_bar_over_all_segments_counts_evaluations(models, monkeypatch):
    seen, prepare = [], latent_preview.prepare_callback

    def counting(model, steps, *rest):
        callback = prepare(model, steps, *rest)
        return lambda step, x0, x, total: (seen.append((step + 1, total)), callback(step, x0, x, total))

    monkeypatch.setattr(latent_preview, "prepare_callback", counting)
    sequence(models, keyframes(3), steps=2, reinjections=1)
    assert sorted(set(seen)) == [(value, 6) for value in range(1, 7)] and seen[-1] == (6, 6)


def test_interrupted_run_goes_on_where_it_stopped(models, sampled, monkeypatch):
    watched = sequence_run.dual_direction_ksampler

    def interrupted(*arguments):
        if len(sampled) == 2:
            comfy.model_management.interrupt_current_processing()
        return watched(*arguments)

    monkeypatch.setattr(sequence_run, "dual_direction_ksampler", interrupted)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sequence(models, keyframes(4), frames_per_segment="2")
    monkeypatch.setattr(sequence_run, "dual_direction_ksampler", watched)
    sampled.clear()
    images, _ = sequence(models, keyframes(4), frames_per_segment="2")
    assert sampled == [(2, clip_seed(1, (2,)))]
    assert torch.equal(images, sequence(models, keyframes(4), frames_per_segment="2", resume=False)[0])
    assert len(sampled) == 4


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs signals that cannot be caught")
def test_killed_process_loses_one_segment_only(models, sampled, tmp_path, output):
    here = Path(__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-c", KILLED_DURING_THIRD, str(here), str(output.parent), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert len(list(output.iterdir())) == 2
    sequence(models, keyframes(4))
    assert sampled == [(4, clip_seed(1, (2,)))]


def test_only_segments_that_a_change_touches_are_sampled_again(models, sampled):
    pictures_in_order = keyframes(4)
    sequence(models, pictures_in_order)
    sampled.clear()
    changed = pictures_in_order.clone()
    changed[3] = 0.5
    sequence(models, changed)
    assert sampled == [(4, clip_seed(1, (2,)))]


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"steps": 2},
        {"fusion": "weighted"},
        {"guidance_max": 2.0},
        {"strategy": "time-reversal"},
        {"scheduler": "simple"},
        {"motion_bucket": 100},
    ],
)
def test_changed_settings_are_sampled_again(models, sampled, change):
    sequence(models, keyframes(2))
    sampled.clear()
    sequence(models, keyframes(2), **change)
    assert len(sampled) == 1


def test_videos_per_call_is_no_change(models, sampled):
    images, _ = sequence(models, keyframes(2))
    sampled.clear()
    assert torch.equal(sequence(models, keyframes(2), videos_per_call="1")[0], images)
    assert not sampled


def test_other_weights_are_sampled_again(models, sampled):
    sequence(models, keyframes(2))
    key = "diffusion_model.input_blocks.1.1.time_stack.0.attn1.to_v.weight"
    shape = models[0].model.state_dict()[key].shape
    for strength in (0.5, 0.6):
        patched = models[0].clone()
        patched.add_patches({key: ("diff", (torch.ones(shape),))}, strength)
        sequence((patched, *models[1:]), keyframes(2))
    assert len(sampled) == 3
    # With the LoRA's weights still in place, the model without it is known again.
    sequence(models, keyframes(2))
    assert len(sampled) == 3


def damage_end(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def swap_names(path: Path) -> None:
    other = next(file for file in path.parent.iterdir() if file != path)
    path.write_bytes(other.read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("edit", [damage_end, truncate, empty, swap_names])
def test_edited_file_is_noticed_and_computed_again(models, sampled, output, caplog, edit):
    images, _ = sequence(models, keyframes(3))
    sampled.clear()
    edit(min(output.iterdir()))
    again, _ = sequence(models, keyframes(3))
    assert len(sampled) == 1 and torch.equal(again, images)
    assert "cannot be used and is computed again" in caplog.text


def test_without_resume_nothing_is_kept(models, output):
    sequence(models, keyframes(2), resume=False)
    assert not output.exists()


def test_full_disk_costs_the_files_only(models, output, caplog, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("generative_inbetweening.weights.files.save_file", full)
    images, _ = sequence(models, keyframes(3))
    assert len(images) == 7 and not list(output.iterdir())
    assert "cannot be kept for a later run" in caplog.text and "the disk is full" in caplog.text


@pytest.mark.parametrize(
    ("count", "changes", "message"),
    [
        (1, {}, "keyframes: expected at least 2 pictures, found 1.*Keyframe node.*loop"),
        (3, {"frames_per_segment": "8, 14, 8"}, "frames_per_segment: expected one number or 2.*found 3"),
        (3, {"frames_per_segment": "8, 14", "loop": True}, "frames_per_segment: expected one number or 3.*found 2"),
        (2, {"frames_per_segment": "eight"}, "frames_per_segment: expected one number, such as 25.*found 'eight'"),
        (2, {"frames_per_segment": ""}, "frames_per_segment: expected one number"),
        (2, {"frames_per_segment": "1"}, "frames_per_segment: expected at least 2 frames.*found 1"),
        (2, {"frames_per_segment": "2", "subdivisions": 1}, "frames_per_segment: expected at least 3 frames"),
        (2, {"frames_per_segment": "1024", "subdivisions": 3}, "subdivisions: expected a video that fits into"),
        (2, {"close_loop": True}, "close_loop: expected loop to be on, found it off.*Switch loop on"),
        (2, {"width": 100}, "width: expected a multiple of 8"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_sampled(models, sampled, count, changes, message):
    with pytest.raises(ValueError, match=message):
        sequence(models, keyframes(count), **changes)
    assert not sampled


def test_a_picture_that_cannot_be_used_is_named(models):
    broken = keyframes(3).clone()
    broken[1, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="keyframes: expected colours from 0 to 1, found NaN"):
        sequence(models, broken)


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "decoded"), [({}, 2), ({"loop": True}, 3), ({"subdivisions": 1}, 6)])
def test_every_clip_is_decoded_once(models, monkeypatch, changes, decoded):
    calls, decode = [], models[2].decode
    monkeypatch.setattr(models[2], "decode", lambda latents: (calls.append(latents), decode(latents))[1])
    sequence(models, keyframes(3), frames_per_segment="3", **changes)
    assert len(calls) == decoded and len({call.data_ptr() for call in calls}) == decoded
