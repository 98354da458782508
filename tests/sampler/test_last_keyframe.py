"""A video that leads up to its last keyframe, with no first one: which directions are computed, and what is refused."""

import itertools

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise, SamplerCustomAdvanced
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from generative_inbetweening.nodes import InbetweenDualDirectionGuider, InbetweenMiddleKeyframe
from generative_inbetweening.sampler.settings import STRATEGIES, VIDEOS_PER_CALL, WITHOUT_FIRST_KEYFRAME
from helpers.small_model import FRAMES, SEED, SETTINGS, calling, encode, pictures, sample
from helpers.two_unets import TwoUNets, guided, two_unets

ROUNDING = {"rtol": 1e-3, "atol": 2e-3}


@pytest.fixture(scope="module")
def alone(models):
    """(positive, negative, latent) of the last picture."""
    return encode(models, alone=True)


def lead_up_of_two_unets(models, alone, fusion: str, fine_tuned: bool, rotated: bool) -> torch.Tensor:
    """Euler steps on the backward direction; the forward UNet sees no picture in either half."""
    directions = TwoUNets(
        two_unets(),
        {"forward": (alone[1], alone[1]), "backward": encode(models, swapped=True)[:2]},
        fine_tuned,
        rotated,
    )
    model = directions.models["forward"].model
    sigmas = comfy.samplers.calculate_sigmas(model.model_sampling, "karras", SETTINGS["steps"]).tolist()
    x = comfy.sample.prepare_noise(alone[2]["samples"], SEED) * (1 + sigmas[0] ** 2) ** 0.5
    for sigma, following in itertools.pairwise(sigmas):
        directions(x, sigma, "forward")
        estimate = guided(directions(x.flip(0), sigma, "backward"), fusion).flip(0)
        x = estimate + following * (x - estimate) / sigma
    return model.process_latent_out(x)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "fusion", "maps"),
    [
        ("dual-direction", "weighted", "rotated"),
        ("dual-direction", "average", "own"),
        ("time-reversal", "weighted", "own"),
    ],
)
def test_it_is_the_backward_direction_alone(models, alone, strategy, fusion, maps):
    stated = lead_up_of_two_unets(
        models, alone, fusion, STRATEGIES[strategy]["backward_motion"], rotated=maps == "rotated"
    )
    for order in VIDEOS_PER_CALL:
        found = sample(
            models[0], alone, strategy=strategy, fusion=fusion, temporal_attention=maps, videos_per_call=order
        )
        assert torch.allclose(found, stated, **ROUNDING), order


def test_time_reversal_is_plain_svd_played_backward(models, alone):
    first, last = pictures()[::-1]
    positive, negative, latent = encode(models, first_keyframe=first, last_keyframe=last)
    noise = comfy.sample.prepare_noise(latent["samples"], SEED).flip(0)
    plain = comfy.sample.sample(
        models[0], noise, 3, 2.0, "euler", "karras", positive, negative, latent["samples"], disable_pbar=True, seed=SEED
    )
    assert torch.allclose(sample(models[0], alone, strategy="time-reversal"), plain.flip(0), **ROUNDING)


@pytest.mark.parametrize(("maps", "videos"), [("rotated", 4), ("own", 2)])
def test_own_maps_take_half_the_work(models, alone, maps, videos):
    calls = []
    sample(calling(models[0], calls.append), alone, steps=1, temporal_attention=maps)
    assert sum(calls) == videos


@pytest.mark.parametrize("changes", [{"sampler_name": "euler_cfg_pp"}, {"reinjections": 2}, {"guidance_end": 0.5}])
@pytest.mark.parametrize("maps", ["rotated", "own"])
def test_the_first_picture_counts_for_nothing(models, alone, changes, maps):
    """Whatever samples it, the video ends where the last keyframe is, and does not begin at the first."""
    found = sample(models[0], alone, temporal_attention=maps, **changes)
    assert found.isfinite().all()
    both = sample(models[0], encode(models), temporal_attention=maps, **changes)
    assert (found[0] - both[0]).abs().mean() > 10 * ROUNDING["atol"]


@pytest.mark.parametrize("maps", ["rotated", "own"])
def test_a_guidance_function_that_calls_the_model(models, alone, maps):
    (model,) = PerturbedAttentionGuidance.execute(models[0], 1.0).args
    found = [sample(model, alone, temporal_attention=maps, videos_per_call=order, steps=1) for order in VIDEOS_PER_CALL]
    assert all(torch.allclose(each, found[0], **ROUNDING) for each in found)
    assert (found[0] - sample(models[0], alone, temporal_attention=maps, steps=1)).abs().max() > ROUNDING["atol"]


def test_a_noise_mask_and_denoise_keep_what_they_say(models, alone):
    given = torch.randn(FRAMES, 4, 8, 8, generator=torch.manual_seed(0))
    mask = torch.ones(FRAMES, 8, 8)
    mask[1] = 0
    latent = {"samples": given, "noise_mask": mask}
    assert torch.allclose(sample(models[0], (*alone[:2], latent))[1], given[1], atol=1e-4)
    kept = sample(models[0], (*alone[:2], {"samples": given}), denoise=0.3)
    whole = sample(models[0], (*alone[:2], {"samples": given}))
    assert (kept - given).abs().mean() < (whole - given).abs().mean()


def test_a_middle_keyframe_leads_it_too(models):
    picture = pictures()[0].transpose(1, 2).contiguous()
    (middle,) = InbetweenMiddleKeyframe.execute(picture, 2, 1.0).args
    without, found = (
        sample(models[0], encode(models, alone=True, **more)) for more in ({}, {"middle_keyframes": middle})
    )
    assert torch.allclose(found[2], models[2].encode(picture)[0], atol=1e-3)
    # No keyframe holds the beginning, so it follows; the end is the last keyframe's.
    assert (found[0] - without[0]).abs().mean() > 1e-2


def guider(model, positive, negative, strategy: str):
    return InbetweenDualDirectionGuider.execute(
        model,
        positive,
        negative,
        guidance_min=1.0,
        guidance_max=3.0,
        fusion="average",
        strategy=strategy,
        temporal_attention="rotated",
        videos_per_call="2",
        guidance_start=0.0,
        guidance_end=1.0,
    ).args[0]


def test_the_guider_gives_the_samplers_video(models, alone):
    directions = guider(models[0], *alone[:2], "dual-direction")
    sigmas = comfy.samplers.calculate_sigmas(models[0].get_model_object("model_sampling"), "karras", SETTINGS["steps"])
    output, _ = SamplerCustomAdvanced.execute(
        Noise_RandomNoise(SEED), directions, comfy.samplers.sampler_object("euler"), sigmas, alone[2]
    ).args
    assert torch.allclose(output["samples"], sample(models[0], alone), **ROUNDING)


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name not in WITHOUT_FIRST_KEYFRAME])
def test_strategies_that_need_both_say_so_before_sampling(models, alone, strategy):
    message = r"^positive: expected both keyframes, .*first_keyframe.*`dual-direction`, `time-reversal`\.$"
    calls = []
    with pytest.raises(ValueError, match=message):
        sample(calling(models[0], calls.append), alone, strategy=strategy)
    with pytest.raises(ValueError, match=message):
        guider(models[0], *alone[:2], strategy)
    assert not calls


def test_conditioning_of_different_keyframes_is_refused(models, alone, encoded):
    with pytest.raises(ValueError, match="^negative: expected positive and negative of the same keyframes"):
        sample(models[0], (alone[0], encoded[1], alone[2]))
    with pytest.raises(ValueError, match="^negative: expected positive and negative of the same keyframes"):
        sample(models[0], ([*encoded[0], *alone[0]], encoded[1], alone[2]))


@pytest.mark.parametrize("alone", [True, False])
def test_no_last_picture_is_named(models, alone):
    with pytest.raises(ValueError, match=r"^last_keyframe: expected a picture, found none\. .*KSampler\.$"):
        encode(models, alone=alone, last_keyframe=None)
