"""The small world: same seed same clip, splits apart, an arrow of time, and a tracker that can be trusted."""

import numpy as np
import pytest
import torch
from generative_inbetweening.benchmarks.common.metrics import between, over_objects
from generative_inbetweening.benchmarks.common.peers import cross_fade
from generative_inbetweening.demo.world import keyframes
from generative_inbetweening.demo.world.draws import Draws
from generative_inbetweening.demo.world.tracker import motion_errors, track
from generative_inbetweening.demo.world.world import (
    MEETING,
    OBJECTS,
    PHOTOGRAPHS,
    SLOWING,
    TRAVEL,
    difficulty,
    make_clip,
    make_clips,
    make_frames,
    make_plan,
)
from generative_inbetweening.tools.paths import DEMO
from PIL import Image


@pytest.fixture(scope="module")
def clips():
    return make_clips(list(range(24)), "test")


@pytest.fixture(scope="module")
def plan():
    """The random choices of many clips, without their pictures."""
    return make_plan(torch.arange(2000), "test", frames=64)


def motion_error(frames, clip):
    return between(over_objects(motion_errors(track(frames, clip).centre, clip).numpy()))


def test_a_clip_depends_on_its_seed_alone(clips):
    again = make_clip(7, "test")
    assert torch.equal(again.frames, clips[7].frames)
    assert torch.equal(again.motion.centre, clips[7].motion.centre)
    assert not torch.equal(make_clip(8, "test").frames, again.frames)


def test_frames_drawn_alone_are_those_of_the_clip(clips):
    assert torch.equal(make_frames(torch.arange(2, 5), "test"), torch.stack([clip.frames for clip in clips[2:5]]))


def test_splits_share_neither_photographs_nor_clips():
    assert not set(PHOTOGRAPHS["train"]) & set(PHOTOGRAPHS["test"])
    assert not torch.equal(make_clip(3, "train").motion.centre[0], make_clip(3, "test").motion.centre[0])


def test_frames_are_pictures(clips):
    for clip in clips:
        assert clip.frames.shape == (8, 3, 128, 128)
        assert clip.frames.min() >= 0 and clip.frames.max() <= 1


def test_every_object_is_whole_where_nothing_hides_it(clips):
    for clip in clips:
        for opacity, colour, hidden in zip(clip.opacity, clip.colour, clip.hidden):
            inside = ((opacity == 1) & (hidden == 0)).expand_as(colour)
            assert inside.any()
            assert (clip.frames - colour)[inside].abs().max() < 1e-5


def test_a_frame_without_an_object_differs_where_the_object_is(clips):
    for clip in clips:
        for without, opacity, hidden in zip(clip.without, clip.opacity, clip.hidden):
            differs = (without - clip.frames).abs().amax(1, keepdim=True) > 1e-6
            assert not (differs & ((opacity == 0) | (hidden == 1))).any()


def test_objects_fly_head_first(plan):
    steps = plan.centre.diff(dim=2)
    middle = (plan.heading[..., 1:] + plan.heading[..., :-1]) / 2
    head = torch.stack((middle.cos(), middle.sin()), -1)
    along = (steps * head).sum(-1) / steps.norm(dim=-1)
    assert along.min() > 0.9
    assert along.mean() > 0.999


def test_objects_slow_down(plan):
    steps = make_plan(torch.arange(2000), "test", frames=8).centre.diff(dim=2).norm(dim=-1)
    straight = (plan.heading.amax(2) - plan.heading.amin(2)) == 0
    ratio = (steps[..., 1:] / steps[..., :-1])[straight]
    assert len(ratio) > 1000
    # A path is a row of points; between them it is straight.
    assert torch.allclose(ratio, torch.full_like(ratio, SLOWING), atol=2e-3)
    assert (steps[..., 0] > 2 * steps[..., -1]).all()


def test_the_first_picture_does_not_tell_speed_and_course(plan):
    way = plan.centre.diff(dim=2).norm(dim=-1).sum(2)
    assert way.min() > 0.97 * TRAVEL[0] and way.max() < TRAVEL[1] + 1e-2
    assert way.max() - way.min() > 0.9 * (TRAVEL[1] - TRAVEL[0])
    turning = plan.heading[..., -1] - plan.heading[..., 0]
    assert turning.min() < -1.7 and turning.max() > 1.7
    assert 0.2 < (turning.abs() < 0.1).float().mean() < 0.3


def test_most_clips_have_several_objects_that_come_across_each_other(plan):
    counts = plan.present.sum(1)
    assert torch.allclose(torch.bincount(counts, minlength=4)[1:] / 2000, torch.tensor(OBJECTS), atol=0.04)
    apart = (plan.centre[:, 1] - plan.centre[:, 0]).norm(dim=-1).amin(1)
    assert (apart < 24).float().mean() > 0.8 * MEETING


def test_difficulties_are_spread(clips):
    found = [difficulty(clip) for clip in clips]
    assert max(each.occlusion for each in found) > 0.5 and min(each.occlusion for each in found) == 0
    assert max(each.turning for each in found) > 1.0
    assert max(each.motion for each in found) > 2.0 and min(each.motion for each in found) > 0.8


def test_other_frame_counts_show_the_same_motion():
    short, long = make_clip(0, "test"), make_clip(0, "test", frames=15)
    assert long.frames.shape == (15, 3, 128, 128)
    assert torch.allclose(long.motion.centre[:, ::2], short.motion.centre, atol=1e-3)


def test_other_sizes_show_the_same_motion():
    small, large = make_clip(0, "test", size=64), make_clip(0, "test")
    assert torch.allclose((large.motion.centre + 0.5) / 2 - 0.5, small.motion.centre, atol=1e-4)
    shrunk = torch.nn.functional.avg_pool2d(large.frames, 2)
    assert (shrunk - small.frames).abs().mean() < 0.01


def test_random_numbers_are_even_and_unrelated():
    numbers = Draws(torch.arange(4000), 0).uniform(shape=(8,))
    assert numbers.min() >= 0 and numbers.max() < 1
    assert torch.allclose(numbers.mean(0), torch.tensor(0.5), atol=0.02)
    related = torch.corrcoef(torch.cat((numbers.T, Draws(torch.arange(1, 4001), 0).uniform(shape=(8,)).T)))
    assert (related - torch.eye(16)).abs().max() < 0.08
    assert not torch.equal(numbers, Draws(torch.arange(4000), 1).uniform(shape=(8,)))


def share_lost(videos, clips):
    """Share of the objects, over all frames, that are found a pixel or more from their place."""
    found = [motion_errors(track(frames, clip).centre, clip).flatten() for frames, clip in zip(videos, clips)]
    errors = torch.cat(found)
    return float((errors[errors.isfinite()] >= 1).float().mean())


# An object of which half is hidden may be taken for one of its shape, whose white head looks like its own.
def test_the_tracker_finds_the_objects_in_true_frames(clips):
    assert share_lost([clip.frames for clip in clips], clips) < 0.01


def test_the_tracker_takes_no_object_for_another_one():
    """The second one's pale head is unlike the first one's white head, which differs more from the ground."""
    clip = make_clip(2_000_001, "test", frames=15)
    assert motion_errors(track(clip.frames, clip).centre, clip).nan_to_num().max() < 1.0


def test_the_tracker_survives_noise(clips):
    generator = torch.Generator().manual_seed(0)
    noisy = [clip.frames + 0.05 * torch.randn(clip.frames.shape, generator=generator) for clip in clips]
    assert share_lost(noisy, clips) < 0.01


def test_a_cross_fade_has_a_large_motion_error(clips):
    errors = torch.tensor([motion_error(cross_fade(c.frames[0], c.frames[-1], 8), c) for c in clips])
    assert errors.mean() > 10.0


def test_unknown_split_and_too_few_frames_are_named():
    with pytest.raises(ValueError, match="split: expected one of train, test"):
        make_clip(0, "validation")
    with pytest.raises(ValueError, match="frames: expected at least 2"):
        make_clip(0, frames=1)
    clip = make_clip(0)
    with pytest.raises(ValueError, match="frames: expected the clip's shape"):
        track(clip.frames[:3], clip)


def test_the_demos_keyframes_are_those_of_their_command(tmp_path):
    keyframes.main(["--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in DEMO.glob("*.png")}
    for path in tmp_path.iterdir():
        made, shipped = (np.asarray(Image.open(each), dtype=int) for each in (path, DEMO / path.name))
        # Processors round differently.
        assert made.shape == shipped.shape and abs(made - shipped).max() <= 1, path.name


def test_a_keyframe_with_more_ground_holds_the_frame():
    picture, frame = keyframes.keyframes()["last_tall"], make_clip(keyframes.SEED, "test", 15, 144).frames[-1]
    assert picture.shape == (3, 192, 144) and torch.equal(picture[:, 24:168], frame)
    # No object is so near to the lower edge.
    assert torch.equal(picture[:, 168:180], picture[:, 155:167].flip(1))
