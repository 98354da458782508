"""The strategies of other methods against recorded runs of their released code, for each `videos_per_call`.

As in test_parity.py: a result is right when it is as close to their run in float64 as their own run in float32 is, up
to a small factor; wrong variants must fail the same comparison.
"""

import folder_paths
import pytest
import torch
from generative_inbetweening.nodes import InbetweenLoadSVD
from generative_inbetweening.sampler.settings import VIDEOS_PER_CALL
from helpers.model_folders import OWN_REFERENCE
from helpers.peer_cases import PEERS, peer_cases, read_peer_case, time_reversal_fusion, vibidsampler
from helpers.peer_model import MODEL, write_peer_model

NOISE_FLOORS = 4
FAST = {"a_vibid3", "b_jump"}


def runs(prefix: str) -> list:
    """(case, videos per call): two of our own are enough where there is little time."""
    return [
        pytest.param(name, videos, marks=() if name in FAST and videos == "2" else pytest.mark.slow)
        for name in peer_cases(prefix)
        for videos in VIDEOS_PER_CALL
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peers")
    write_peer_model(PEERS, OWN_REFERENCE / MODEL, folder)
    folder_paths.add_model_folder_path("diffusers", str(folder), is_default=True)
    folder_paths.filename_list_cache.clear()
    yield InbetweenLoadSVD.execute(f"{MODEL}/").args[0]
    folder_paths.folder_names_and_paths["diffusers"][0].remove(str(folder))


def excess(case, found: torch.Tensor, name: str = "final_latents") -> float:
    """By how many times what is allowed, in the mean, `found` differs from the recorded run: up to 1 is right."""
    recorded, exact = case.tensors[name].double(), case.tensors[f"{name}_float64"]
    allowed = NOISE_FLOORS * (recorded - exact).abs().mean()
    by = ((found.double() - exact).abs().mean() / allowed).item()
    print(f"{case.name}: {by:.3g} times what is allowed, mean difference {(found - exact).abs().mean():.1e}")
    return by


@pytest.mark.parametrize(("name", "videos"), runs("b"))
def test_time_reversal_is_the_release_with_its_jumps(model, name, videos):
    case = read_peer_case(name)
    # Their run with the scale of the model's input mended.
    assert excess(case, time_reversal_fusion(case, model, videos), "final_latents_scale_fixed") <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"jump_length": 1},
        {"repeat_first_step": True, "reinjection_share": 0.25},
        {"reinjections": 0},
        {"noise_ratio": 0.95},
    ],
    ids=str,
)
def test_with_other_jumps_the_video_is_another(model, changes):
    case = next(case for case in map(read_peer_case, peer_cases("b")) if case.settings["jump_n_sample"] > 1)
    # Some of these go back over more levels.
    case.tensors["undo_noise"] = case.tensors["undo_noise"].repeat(3, 1, 1, 1, 1)
    assert excess(case, time_reversal_fusion(case, model, **changes), "final_latents_scale_fixed") > 1


@pytest.mark.parametrize(("name", "videos"), runs("a"))
def test_alternating_is_the_release_of_vibidsampler(model, name, videos, monkeypatch):
    case = read_peer_case(name)
    assert excess(case, vibidsampler(case, model, monkeypatch, videos)) <= 1


@pytest.mark.slow
def test_led_to_keyframes_with_augmentation_noise_the_video_is_another(model, monkeypatch):
    case = read_peer_case(peer_cases("a")[0])
    assert excess(case, vibidsampler(case, model, monkeypatch, clean=False)) > 1
