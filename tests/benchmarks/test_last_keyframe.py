"""The benchmark of the last keyframe alone: the arrow of time that it reads, on clips forward and backward."""

import json

import pytest
import torch
from generative_inbetweening.benchmarks.common.clips import FIRST_SEED
from generative_inbetweening.benchmarks.common.rows import measure
from generative_inbetweening.benchmarks.last_keyframe import report
from generative_inbetweening.benchmarks.last_keyframe.methods import METHODS, STRAIGHT, straight_clips, straight_seeds
from generative_inbetweening.demo.world.tracker import speeds
from generative_inbetweening.demo.world.world import difficulty
from generative_inbetweening.sampler.settings import WITHOUT_FIRST_KEYFRAME, chosen_settings

CLIPS = (FIRST_SEED, 3, 8, 64)


@pytest.fixture(scope="module")
def clips():
    return list(straight_clips(*CLIPS))


def test_shares_are_the_clips_and_everything_goes_straight(clips):
    shares = [clip.name for start in (0, 1) for clip in straight_clips(*CLIPS, share=slice(start, None, 2))]
    assert sorted(shares) == [clip.name for clip in clips] == [f"{seed}" for seed in straight_seeds(*CLIPS[:2])]
    assert all(difficulty(clip.world).turning < STRAIGHT for clip in clips)
    # Many more are asked for than are planned at once, and they are the first ones.
    assert straight_seeds(FIRST_SEED, 60)[:3] == straight_seeds(*CLIPS[:2])


def test_the_worlds_things_fly_head_first_and_slow_down(clips):
    for clip in clips:
        for found in speeds(clip.world.motion.centre, clip.world):
            found = found[found.isfinite()]
            assert (found > 0).all() and (found.diff() < 0).all()


def test_the_report_reads_the_arrow_of_time(clips, tmp_path):
    """The true frames have it, the same played backward have not."""
    for name in ("forward", "backward"):
        for clip in clips:
            frames = clip.truth if name == "forward" else clip.truth.flip(0)
            path = tmp_path / "rows" / "world" / name / f"{clip.name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({**measure(frames, clip, None), "unet_videos": 1}))
    labels = {"forward": "played forward", "backward": "played backward"}
    found = {"preset": "fast", **report.result(tmp_path, labels, [clip.name for clip in clips])}
    forward, backward = found["methods"].values()
    assert (forward["arrow"]["mean"], backward["arrow"]["mean"]) == (1.0, 0.0)
    assert forward["way"]["mean"] > 5 > -5 > backward["way"]["mean"]
    assert forward["early"]["mean"] > forward["late"]["mean"] and forward["motion_error"]["mean"] < 0.5
    assert found["minus"]["backward"]["arrow"]["mean"] == 1.0
    assert "played backward" in report.markdown(found)


def test_the_methods_can_do_without_a_first_keyframe():
    alone = [each for each in METHODS.values() if not each.both]
    assert {each.inputs.get("strategy", "dual-direction") for each in alone} == set(WITHOUT_FIRST_KEYFRAME)
    assert all(chosen_settings(**each.inputs) for each in alone)


def test_an_object_that_stands_still_has_no_arrow():
    row = {"speed": [0.0] * 7, "motion_error": [1.0] * 8}
    assert report.values(row)["arrow"] == 0.0
    assert torch.tensor(report.values({**row, "speed": [float("nan")] * 7})["arrow"]).isnan()
