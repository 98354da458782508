"""The benchmark of keyframes inside a clip: what each way is given, and its report."""

from functools import partial

import pytest
from generative_inbetweening.benchmarks.common.clips import FIRST_SEQUENCE_SEED, world_clips
from generative_inbetweening.benchmarks.common.metrics import psnr
from generative_inbetweening.benchmarks.common.rows import Job, read_frames, read_rows
from generative_inbetweening.benchmarks.middle_keyframes import report
from generative_inbetweening.benchmarks.middle_keyframes.methods import CANDIDATES, COMPARED, Ways
from generative_inbetweening.sampler import settings

CLIPS = partial(world_clips, FIRST_SEQUENCE_SEED, 1, 5, 64)
NAMES = ["dual-direction-middle", "dual-direction-segments", "dual-direction-none"]


def test_every_strategy_is_compared_in_every_way():
    assert {name.removesuffix("-middle") for name in COMPARED if name.endswith("-middle")} == set(settings.STRATEGIES)


@pytest.fixture(scope="module")
def out(tmp_path_factory, demo_files):
    """The results of one short clip."""
    out = tmp_path_factory.mktemp("middle_keyframes")
    sets = [("world", CLIPS, ["reconstruction", *NAMES])]
    methods = {**COMPARED, **CANDIDATES}
    Job(out, *demo_files, methods, {}, sets, False, runner=Ways)(slice(None))
    return out


def test_the_middle_keyframe_is_sampled_in_the_number_format_that_was_asked_for(out, demo_files):
    (clip,) = CLIPS()
    with Ways(*demo_files, {}, COMPARED, bf16=True) as ways:
        rounded = ways.run("dual-direction-middle", clip).frames
    exact = read_frames(out, "world", "dual-direction-middle", clip.name)
    # Frames are kept in 8 bits: half a level is no difference.
    assert (rounded - exact).abs().max() > 2 / 255


def test_the_middle_frame_is_the_keyframe_through_the_vae(out):
    (clip,) = CLIPS()
    (middle,) = read_frames(out, "world", "dual-direction-middle", clip.name)[[2]]
    (known,) = read_frames(out, "world", "reconstruction", clip.name)[[2]]
    assert psnr(middle[None], known[None])[0] > 50


def test_two_segments_are_one_video_and_take_twice_the_work(out):
    (clip,) = CLIPS()
    assert len(read_frames(out, "world", "dual-direction-segments", clip.name)) == 5
    (segments,), (one,) = (read_rows(out, "world", name, [clip.name]) for name in NAMES[1:])
    assert segments["unet_videos"] == 2 * one["unet_videos"] == 56


def test_the_report_compares_the_middle_keyframe_with_the_other_ways(out):
    result = report.result(out, {name: name for name in NAMES}, list(CLIPS()))
    measured, minus = result["methods"]["dual-direction-middle"], result["methods"]["dual-direction-middle"]["minus"]
    assert set(minus) == {"segments", "none"}
    other = result["methods"]["dual-direction-segments"]
    expected = measured["motion_error"]["mean"] - other["motion_error"]["mean"]
    assert minus["segments"]["motion_error"]["mean"] == pytest.approx(expected)
    text = report.markdown({**result, "frames": 5})
    assert "dual-direction, minus two segments" in text and "dual-direction, minus none" in text
