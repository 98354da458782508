"""A sequence of three keyframes on the demo's model: keyframes in their places, no frame twice."""

import sys

import numpy as np
import pytest
import torch
from generative_inbetweening.benchmarks.common.clips import FIRST_SEED, world_clip
from generative_inbetweening.benchmarks.common.metrics import frame_errors
from generative_inbetweening.benchmarks.sequence.overlapping import windows
from generative_inbetweening.benchmarks.sequence.segments import jump, speed_jump
from generative_inbetweening.benchmarks.sequence.ways import WAYS, Ways
from generative_inbetweening.demo.world.tracker import motion_errors, track
from generative_inbetweening.demo.world.world import SIZE
from generative_inbetweening.nodes import InbetweenKeyframeSequence
from generative_inbetweening.sampler.settings import GuiderSettings, chosen_settings

KEYFRAMES = [0, 7, 14]
# Its two objects are seen in every frame; they travel 64 and 89 pixels.
CLIP, FRAMES = FIRST_SEED + 1, 15
# A place found to a fraction of a pixel has an error of its own, which the reconstruction's frames have as well.
TRACKER = 0.5
INPUTS = {
    "width": SIZE,
    "height": SIZE,
    "fps": 7,
    "motion_bucket": 127,
    "noise_augmentation": 0.02,
    "fit": "crop",
    "seed": 1,
    "preset": "fast",
    "subdivisions": 0,
    "resume": False,
    "settings": chosen_settings("fast", "2"),
}


@pytest.fixture(scope="module")
def clip():
    return world_clip(CLIP, FRAMES, SIZE)


@pytest.fixture(scope="module")
def video(methods, clip) -> torch.Tensor:
    """`[15, 3, 128, 128]` through the clip's frames 0, 7 and 14."""
    keyframes = clip.truth[KEYFRAMES].movedim(1, -1).contiguous()
    with torch.inference_mode():
        images, _ = InbetweenKeyframeSequence.execute(
            methods.model(), methods.clip_vision, methods.vae, keyframes, "8", False, **INPUTS
        ).args
    return images.movedim(-1, 1).float().clamp(0, 1).clone()


def test_ways_are_sampled_in_the_number_format_that_was_asked_for(demo_files):
    short, found = world_clip(CLIP, 9, 64), []
    for bf16 in (False, True):
        with Ways(*demo_files, {}, WAYS, bf16=bf16) as ways:
            found.append(ways.run("one-clip", short).frames)
    assert (found[0] - found[1]).abs().max() > 2 / 255


def place_errors(frames, clip):
    return motion_errors(track(frames, clip).centre, clip).numpy()


@pytest.mark.slow
def test_all_frames_are_there_and_none_twice(video):
    assert len(video) == 2 * 7 + 1
    shown = (video * 255).round()
    for first in range(len(shown)):
        for second in range(first):
            assert not torch.equal(shown[first], shown[second]), (first, second)


@pytest.mark.slow
@pytest.mark.usefixtures("trained")
def test_keyframes_are_in_their_places_within_the_models_own_reconstruction_error(methods, clip, video):
    reconstruction = methods.run("reconstruction", clip).frames
    found, known = (place_errors(frames, clip.world) for frames in (video, reconstruction))
    ours, own = (frame_errors(frames, clip.truth) for frames in (video, reconstruction))
    print(
        "places", found[:, KEYFRAMES], known[:, KEYFRAMES], "pictures", ours[KEYFRAMES], own[KEYFRAMES], file=sys.stderr
    )
    assert np.nanmax(found[:, KEYFRAMES]) <= np.nanmax(known) + TRACKER
    # In the picture, too, the frame at a keyframe is that keyframe, not one of the others.
    for position, keyframe in enumerate(KEYFRAMES):
        distances = frame_errors(video[keyframe].expand(len(KEYFRAMES), -1, -1, -1), clip.truth[KEYFRAMES])
        assert distances.argmin() == position, distances
    assert ours[KEYFRAMES].mean() <= 1.5 * own[KEYFRAMES].mean()


def test_speed_jump_is_the_change_of_velocity():
    steady = np.stack([np.arange(9.0), 2 * np.arange(9.0)], axis=1)[None]
    assert speed_jump(steady, 4, 2) == pytest.approx(0)
    halved = np.concatenate([np.arange(5.0), 4 + np.arange(1, 5) / 2])
    halved = np.stack([halved, halved], axis=1)[None]
    assert speed_jump(halved, 4, 2) == pytest.approx(0.5 * 2**0.5)
    hidden = np.where(steady == 5, np.nan, steady)
    assert np.isnan(speed_jump(hidden, 4, 1))
    # The mean over the objects that can be seen.
    assert speed_jump(np.concatenate([steady, halved, hidden]), 4, 1) == pytest.approx(0.25 * 2**0.5)


def test_jump_is_the_change_of_velocity_beyond_the_true_one():
    truth = np.stack([np.arange(9.0) ** 2, np.zeros(9)], axis=1)[None]
    assert jump(truth, truth, 4, 2) == 0 and speed_jump(truth, 4, 2) == pytest.approx(4)
    steady = np.stack([8 * np.arange(9.0), np.zeros(9)], axis=1)[None]
    assert jump(steady, truth, 4, 2) == pytest.approx(4)


@pytest.mark.parametrize("past", [0, 2])
def test_directions_of_overlapping_segments_run_past_the_keyframe(past):
    found = windows(2, 4, past, GuiderSettings())
    assert [(window.first, window.last) for window in found] == [(0, 4 + past), (0, 4), (4, 8), (4 - past, 8)]
    for window in found:
        frames = window.last - window.first + 1
        assert len(window.weights) == len(window.scales) == frames and (window.weights > 0).all()
        # Each counts most at the keyframe where it starts.
        start = 0 if window.direction == "forward" else frames - 1
        assert window.weights.argmax() == start


def test_true_frames_are_in_their_places(clip):
    assert np.nanmax(place_errors(clip.truth, clip.world)) < 1
    assert frame_errors(clip.truth, clip.truth).max() == 0
    assert frame_errors(clip.truth + 0.1, clip.truth) == pytest.approx(25.5, abs=1e-3)
