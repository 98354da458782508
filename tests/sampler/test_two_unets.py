"""Every strategy, with every `videos_per_call`, against the same written out on two UNets of the host's own."""

import comfy.sample
import pytest
import torch
from generative_inbetweening.sampler.method.noise import stream_seed
from generative_inbetweening.sampler.settings import STRATEGIES, VIDEOS_PER_CALL
from helpers.small_model import SEED, SETTINGS, encode, sample
from helpers.two_unets import (
    TwoUNets,
    two_unet_alternating,
    two_unet_dual_direction,
    two_unet_endpoint_correction,
    two_unets,
)

ROUNDING = {"rtol": 1e-3, "atol": 2e-3}
# (strategy, fusion, maps of the backward direction)
VARIANTS = [
    ("dual-direction", "average", "rotated"),
    ("dual-direction", "weighted", "rotated"),
    ("dual-direction", "weighted", "own"),
    ("time-reversal", "average", "own"),
    ("time-reversal", "weighted", "own"),
    ("endpoint-correction", "weighted", "own"),
    ("alternating", "average", "own"),
    ("alternating-backward-motion", "average", "rotated"),
    ("alternating-backward-motion", "average", "own"),
    ("motion-prior-distillation", "average", "own"),
]


@pytest.fixture(scope="module")
def unets(models):
    return two_unets()


def two_unet_video(unets, models, encoded, strategy: str, fusion: str, maps: str) -> torch.Tensor:
    """The video's latents, as the node gives them."""
    directions = TwoUNets(
        unets,
        {"forward": encoded[:2], "backward": encode(models, swapped=True)[:2]},
        STRATEGIES[strategy]["backward_motion"],
        maps == "rotated",
    )
    model = directions.models["forward"].model
    sigmas = comfy.samplers.calculate_sigmas(model.model_sampling, "karras", SETTINGS["steps"]).tolist()
    # The host's noise at the highest level.
    x = comfy.sample.prepare_noise(encoded[2]["samples"], SEED) * (1 + sigmas[0] ** 2) ** 0.5
    if STRATEGIES[strategy].get("alternating"):
        # A tenth of three steps, rounded up.
        distilled = {"distilled_steps": 1, "distillations": 3} if strategy == "motion-prior-distillation" else {}
        x = two_unet_alternating(
            directions,
            x,
            sigmas,
            directions.keyframe("forward"),
            directions.keyframe("backward"),
            stream_seed(SEED, "sampler"),
            **distilled,
        )
    elif strategy == "endpoint-correction":
        x = two_unet_endpoint_correction(directions, x, sigmas)
    else:
        x = two_unet_dual_direction(directions, x, sigmas, fusion)
    return model.process_latent_out(x)


def test_no_strategy_is_left_out():
    assert {strategy for strategy, *_ in VARIANTS} == set(STRATEGIES)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "fusion", "maps"), VARIANTS)
def test_every_videos_per_call_gives_the_video_of_two_unets(unets, models, encoded, strategy, fusion, maps):
    stated = two_unet_video(unets, models, encoded, strategy, fusion, maps)
    for order in VIDEOS_PER_CALL:
        found = sample(
            models[0], encoded, strategy=strategy, fusion=fusion, temporal_attention=maps, videos_per_call=order
        )
        print(f"{strategy}, {fusion}, {maps} maps, {order}: {(found - stated).abs().max():.1e} at most")
        assert torch.allclose(found, stated, **ROUNDING), order
