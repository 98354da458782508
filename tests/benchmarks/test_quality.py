"""The quality benchmark's metrics tell good from bad, and with the demo model ours stays ahead of what came before."""

import math
import sys

import numpy as np
import pytest
import torch
from generative_inbetweening.benchmarks.common import metrics
from generative_inbetweening.benchmarks.common.clips import FIRST_SEED, world_clip
from generative_inbetweening.benchmarks.common.peers import cross_fade
from generative_inbetweening.benchmarks.common.report import difference, interval
from generative_inbetweening.benchmarks.common.rows import measure
from generative_inbetweening.demo.world.tracker import motion_errors, track
from generative_inbetweening.demo.world.world import FRAMES, SIZE, make_clips

PASSES = 0.15
# The benchmark's first clips, in which `ours` is better than these methods in these measures: 1 where more is better.
AHEAD_OF = {
    "cross-fade": {"motion_error": -1, "ghosting": -1, "psnr": 1},
    "time-reversal": {"motion_error": -1, "psnr": 1},
}
# Sampling takes long: as many as keep the whole suite short.
CLIPS = {"ours": 8, "cross-fade": 8, "time-reversal": 4}


@pytest.fixture(scope="module")
def clips():
    return make_clips(list(range(12)), "test")


def ghosting(frames, clip):
    return metrics.between(metrics.over_objects(metrics.ghosting(frames, clip)))


def motion_error(frames, clip):
    return metrics.between(metrics.over_objects(motion_errors(track(frames, clip).centre, clip).numpy()))


def faded(clip):
    return cross_fade(clip.frames[0], clip.frames[-1], len(clip.frames))


@pytest.mark.slow
def test_true_frames_have_no_ghosts_and_a_cross_fade_has(clips):
    truth = [ghosting(clip.frames, clip) for clip in clips]
    fade = [ghosting(faded(clip), clip) for clip in clips]
    # A true object that lies between two pixels leaves a little of itself beside the whole-pixel copy.
    assert max(truth) < PASSES
    assert np.mean(fade) > 3 * PASSES
    assert all(true < ghost for true, ghost in zip(truth, fade))


def test_an_object_in_the_wrong_place_is_no_ghost(clips):
    clip = next(clip for clip in clips if len(clip.opacity) == 1)
    opacity, colour = (layer[0].roll(14, -1) for layer in (clip.opacity, clip.colour))
    beside = clip.without[0] + opacity * (colour - clip.without[0])
    assert ghosting(beside, clip) < PASSES
    assert motion_error(beside, clip) == pytest.approx(14, abs=0.5)


def test_ghosting_survives_noise(clips):
    generator = torch.Generator().manual_seed(0)
    noisy = [clip.frames + 0.05 * torch.randn(clip.frames.shape, generator=generator) for clip in clips]
    assert np.mean([ghosting(frames, clip) for frames, clip in zip(noisy, clips)]) < PASSES


def test_image_metrics_of_equal_and_of_different_frames(clips):
    truth = clips[0].frames
    assert metrics.between(metrics.psnr(truth, truth)) == pytest.approx(metrics.LARGEST_PSNR)
    assert metrics.between(metrics.psnr(truth + 0.1, truth)) == pytest.approx(20.0, abs=1e-3)
    assert metrics.keyframe_error(truth, truth) == 0
    assert metrics.keyframe_error(truth + 0.1, truth) == pytest.approx(25.5, abs=1e-3)


def test_intervals_hold_the_mean_and_leave_out_what_is_not_known():
    values = np.random.default_rng(1).normal(3.0, 1.0, 64).tolist()
    result = interval([*values, math.nan])
    assert result["clips"] == 64
    assert result["mean"] == pytest.approx(np.mean(values))
    assert result["low"] < result["mean"] < result["high"]
    # 1.96 standard errors on either side.
    assert result["high"] - result["low"] == pytest.approx(2 * 1.96 / 8 * np.std(values), rel=0.1)
    assert interval([math.nan])["mean"] is None
    assert difference(values, [value - 1 for value in values])["low"] == pytest.approx(1.0)


def test_frames_are_measured_against_the_clip_of_the_benchmark():
    clip = world_clip(FIRST_SEED, 8, 64)
    assert torch.allclose(clip.truth, clip.world.frames, atol=1 / 255)
    assert torch.equal(clip.truth, world_clip(FIRST_SEED, 8, 64).truth)
    assert not torch.equal(clip.truth, world_clip(FIRST_SEED + 1, 8, 64).truth)


@pytest.mark.slow
def test_every_method_makes_a_video_and_counts_its_work(methods, monkeypatch):
    clip = world_clip(FIRST_SEED, 8, 64)
    # 4 steps, the first 2 of them once more; 4 videos an evaluation, half of them where one direction is made.
    fixed = {"steps": 4, "reinjections": 1, "reinjection_share": 0.5, "guidance_min": 1.0, "guidance_max": 3.0}
    monkeypatch.setattr(methods, "settings", {"preset": "paper", **fixed})
    for name, evaluations, videos in (
        ("cross-fade", 0, 0),
        ("forward", 4, 8),
        ("ours", 6, 24),
        ("time-reversal", 6, 24),
        ("endpoint-correction", 6, 12),
    ):
        video = methods.run(name, clip)
        assert video.frames.shape == clip.truth.shape
        assert torch.isfinite(video.frames).all()
        assert (video.evaluations, video.unet_videos) == (evaluations, videos), name


@pytest.mark.slow
@pytest.mark.usefixtures("trained")
def test_ours_stays_ahead_of_cross_fade_and_time_reversal_fusion(methods):
    """Means over the in-between frames of a few clips, by the preset `fast`."""
    found = {name: {metric: [] for metric in ("motion_error", "ghosting", "psnr")} for name in ("ours", *AHEAD_OF)}
    for number in range(max(CLIPS.values())):
        clip = world_clip(FIRST_SEED + number, FRAMES, SIZE)
        for name, metrics_of_it in found.items():
            if number >= CLIPS[name]:
                continue
            row = measure(methods.run(name, clip).frames, clip, None)
            for metric, values in metrics_of_it.items():
                values.append(metrics.between(np.array(row[metric], dtype=float)))
    print(found, file=sys.stderr)
    for other, measured in AHEAD_OF.items():
        for metric, better in measured.items():
            ours, others = (np.nanmean(found[name][metric][: CLIPS[other]]) for name in ("ours", other))
            assert better * ours > better * others, (other, metric, ours, others)
