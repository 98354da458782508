"""The budget benchmark's list of settings and its summary; the quality of each is the benchmark's to measure."""

import json

import pytest
import torch
from generative_inbetweening.benchmarks.budget import report as budget_report
from generative_inbetweening.benchmarks.budget.corrected_first import Candidates, CorrectedFirst
from generative_inbetweening.benchmarks.budget.methods import CANDIDATES, COMPARED
from generative_inbetweening.benchmarks.common.clips import FIRST_SEED, world_clip
from generative_inbetweening.benchmarks.common.methods import Method
from generative_inbetweening.benchmarks.common.report import difference
from generative_inbetweening.sampler.settings import chosen_settings

CLIPS = ["1", "2", "3"]
VIDEOS = {
    "paper": 700,
    "balanced": 38,
    "fast": 20,
    "training-free": 28,
    "time-reversal": 700,
    "time-reversal-fast": 20,
    "alternating": 100,
    "motion-prior-distillation": 118,
    "motion-prior-distillation-released": 130,
    "alternating-backward-motion": 100,
}


def videos(method) -> int:
    """At most: of a step that is not guided only half are computed."""
    settings = chosen_settings(**method.inputs)
    return settings.guider.videos_of_an_evaluation() * settings.sampler.sampler_steps(settings.guider)


def test_every_compared_method_costs_what_the_tables_say():
    assert {name: videos(method) for name, method in COMPARED.items()} == VIDEOS


@pytest.mark.parametrize("name", CANDIDATES)
def test_candidates_cost_no_more_than_balanced_may(name):
    # Where guidance is left out in part of the noise range, fewer videos are needed than are counted here.
    assert 0 < videos(CANDIDATES[name]) <= (84 if "guidance_end" in CANDIDATES[name].inputs else 70)


def test_endpoint_correction_in_the_first_steps_lies_between_none_and_endpoint_correction(demo_files):
    few = {"fusion": "weighted", "guidance_max": 1.0, "steps": 2, "reinjections": 0}
    compared = {
        "both-directions": Method("", few),
        "never": CorrectedFirst("", few, until=0.0),
        "first": CorrectedFirst("", few, until=0.4),
        "always": CorrectedFirst("", few, until=1.0),
        "endpoint-correction": Method("", {**few, "strategy": "endpoint-correction"}, None),
    }
    clip = world_clip(FIRST_SEED, 5, 64)
    with Candidates(*demo_files, {}, compared) as methods:
        found = {name: methods.run(name, clip) for name in compared}
    assert {name: video.unet_videos for name, video in found.items()} == {
        "both-directions": 4,
        "never": 4,
        "first": 3,
        "always": 2,
        "endpoint-correction": 2,
    }
    assert torch.equal(found["never"].frames, found["both-directions"].frames)
    assert torch.allclose(found["always"].frames, found["endpoint-correction"].frames, atol=1e-5)
    for name in ("both-directions", "endpoint-correction"):
        assert not torch.equal(found["first"].frames, found[name].frames)


@pytest.fixture
def rows(tmp_path):
    """Measures of three clips of each method as a run leaves them: every clip's own level, and the method's on top."""
    gains = {"paper": 0.0, "balanced": 0.5, "fast": -0.25, "cross-fade": -1.0, "reconstruction": 1.0}
    for name, gain in gains.items():
        for level, clip in enumerate(CLIPS):
            path = tmp_path / "rows" / "world" / name / f"{clip}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                json.dumps(
                    {
                        "cvvdp": 6.0 + level + gain,
                        "motion_error": [0.0, 3.0 - gain, None, 3.0 - gain, 0.0],
                        "ghosting": [0.0, 0.5, 0.5, 0.5, 0.0],
                        "psnr": [40.0, 25.0, 25.0, 25.0, 40.0],
                        "ssim": [1.0, 0.9, 0.9, 0.9, 1.0],
                        "keyframe_error": 1.0,
                        "evaluations": VIDEOS.get(name, 0) / 4,
                        "unet_videos": VIDEOS.get(name, 0),
                        "seconds": 1.0,
                    }
                )
            )
    return tmp_path


def test_summary_holds_means_intervals_and_paired_differences(rows):
    labels = {name: name for name in ("paper", "balanced", "fast")}
    result = json.loads(json.dumps(budget_report.result(rows, labels, CLIPS), allow_nan=False))
    assert result["clips"] == 3 and {name: each["unet_videos"] for name, each in result["presets"].items()} == {
        name: VIDEOS[name] for name in labels
    }
    for name, gain in (("paper", 0.0), ("balanced", 0.5), ("fast", -0.25)):
        each = result["presets"][name]
        assert each["cvvdp"]["mean"] == pytest.approx(7 + gain)
        assert each["cvvdp"]["low"] <= each["cvvdp"]["mean"] <= each["cvvdp"]["high"]
        assert each["motion_error"]["mean"] == pytest.approx(3 - gain)
        if name != "paper":
            # Clip by clip the difference is always the same, however far the clips are apart.
            assert each["minus"]["cvvdp"] == pytest.approx(
                {"mean": gain, "low": gain, "high": gain, "clips": 3}, abs=1e-6
            )
    assert set(result["peers"]) == {"cross-fade", "reconstruction"}


def test_differences_pair_the_clips_that_both_methods_have(rows):
    (rows / "rows" / "world" / "paper" / "1.json").unlink()
    (rows / "rows" / "world" / "fast" / "3.json").unlink()
    result = budget_report.result(rows, {name: name for name in ("paper", "balanced", "fast")}, CLIPS)
    for name, gain, clips in (("balanced", 0.5, 2), ("fast", -0.25, 1)):
        assert result["presets"][name]["minus"]["cvvdp"] == pytest.approx(
            {"mean": gain, "low": gain, "high": gain, "clips": clips}, abs=1e-6
        )
    table = budget_report.markdown(result)
    assert "| fast, 2 clips |" in table and "| balanced |" in table


def test_differences_of_lists_that_are_not_of_the_same_clips_are_refused():
    with pytest.raises(ValueError, match="argument"):
        difference([1.0, 2.0], [1.0])


def test_table_names_the_work_and_marks_what_differs(rows):
    labels = {name: name for name in ("paper", "fast")}
    table = budget_report.markdown(budget_report.result(rows, labels, CLIPS)).splitlines()
    fast = next(line for line in table if line.startswith("| fast |"))
    assert fast.split(" | ")[1] == "20" and "**-0.25 [-0.25, -0.25]**" in fast
    assert table.index(fast) > table.index(next(line for line in table if line.startswith("| paper |")))
