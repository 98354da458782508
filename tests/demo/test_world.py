"""The small world: same seed same clip, splits apart, an arrow of time, and a tracker that can be trusted."""

import pytest
import torch
from generative_inbetweening.benchmarks.common.metrics import between
from generative_inbetweening.benchmarks.common.peers import cross_fade
from generative_inbetweening.demo.world.tracker import motion_errors, track
from generative_inbetweening.demo.world.world import MOTIONS, PHOTOGRAPHS, SLOWING, TRAVEL, make_clip, make_clips


@pytest.fixture(scope="module")
def clips():
    return make_clips(list(range(48)), "test")


def motion_error(frames, clip):
    return between(motion_errors(track(frames, clip).centre, clip).numpy())


def test_a_clip_depends_on_its_seed_alone(clips):
    again = make_clip(7, "test")
    assert torch.equal(again.frames, clips[7].frames)
    assert torch.equal(again.motion.centre, clips[7].motion.centre)
    assert not torch.equal(make_clip(8, "test").frames, again.frames)


def test_splits_share_neither_photographs_nor_clips():
    assert not set(PHOTOGRAPHS["train"]) & set(PHOTOGRAPHS["test"])
    assert not torch.equal(make_clip(3, "train").motion.centre, make_clip(3, "test").motion.centre)


def test_frames_are_pictures(clips):
    for clip in clips:
        assert clip.frames.shape == (8, 3, 64, 64)
        assert clip.frames.min() >= 0 and clip.frames.max() <= 1
        assert clip.kind in MOTIONS


def test_frames_are_the_ground_with_the_objects_on_it(clips):
    for clip in clips:
        if clip.motion.centre.shape[0] == 1:
            composed = clip.background + clip.opacity * (clip.colour - clip.background)
            # Where an object is half behind a post's soft edge the two orders of pasting differ a little.
            assert (composed - clip.frames).abs().max() < (0.3 if clip.kind == "behind a post" else 1e-5)


def test_objects_fly_head_first_and_slow_down(clips):
    flying = [clip for clip in clips if clip.kind == "fly"]
    assert len(flying) > 20
    for clip in flying:
        steps = clip.motion.centre[0].diff(dim=0)
        speed = steps.norm(dim=-1)
        assert torch.allclose(speed[1:] / speed[:-1], torch.full((6,), SLOWING), atol=1e-2)
        heading = clip.motion.heading[0, 0]
        assert torch.allclose(steps[0] / speed[0], torch.stack((heading.cos(), heading.sin())), atol=1e-3)


def test_the_first_picture_does_not_tell_the_speed(clips):
    travel = torch.stack([(c.motion.centre[0, -1] - c.motion.centre[0, 0]).norm() for c in clips if c.kind == "fly"])
    assert travel.min() >= TRAVEL[0] - 1e-3 and travel.max() <= TRAVEL[1] + 1e-3
    assert travel.max() - travel.min() > 0.7 * (TRAVEL[1] - TRAVEL[0])


def test_other_frame_counts_show_the_same_motion():
    short, long = make_clip(0, "test"), make_clip(0, "test", frames=15)
    assert long.frames.shape == (15, 3, 64, 64)
    assert torch.allclose(long.motion.centre[0, ::2], short.motion.centre[0], atol=1e-3)


def test_other_sizes_show_the_same_motion():
    small, large = make_clip(0, "test"), make_clip(0, "test", size=128)
    assert torch.allclose((large.motion.centre + 0.5) / 2 - 0.5, small.motion.centre, atol=1e-4)
    shrunk = torch.nn.functional.avg_pool2d(large.frames, 2)
    assert (shrunk - small.frames).abs().mean() < 0.01


@pytest.mark.slow
def test_the_tracker_finds_the_object_in_true_frames(clips):
    assert max(motion_error(clip.frames, clip) for clip in clips) < 1.0


def test_the_tracker_survives_noise(clips):
    generator = torch.Generator().manual_seed(0)
    errors = [motion_error(c.frames + 0.05 * torch.randn(c.frames.shape, generator=generator), c) for c in clips[:16]]
    assert max(errors) < 1.0


@pytest.mark.slow
def test_a_cross_fade_has_a_large_motion_error(clips):
    errors = torch.tensor([motion_error(cross_fade(c.frames[0], c.frames[-1], 8), c) for c in clips])
    assert errors.mean() > 4.0


def test_the_tracker_finds_an_object_that_is_where_it_should_not_be(clips):
    clip = next(c for c in clips if c.kind == "fly")
    still = clip.frames[:1].expand_as(clip.frames)
    found = track(still, clip).centre
    assert torch.allclose(found, clip.motion.centre[0, :1].expand_as(found), atol=0.5)


def test_unknown_split_and_too_few_frames_are_named():
    with pytest.raises(ValueError, match="split: expected one of train, test"):
        make_clip(0, "validation")
    with pytest.raises(ValueError, match="frames: expected at least 2"):
        make_clip(0, frames=1)
    clip = make_clip(0)
    with pytest.raises(ValueError, match="frames: expected the clip's shape"):
        track(clip.frames[:3], clip)
