"""Keyframes inside a clip in runs of the host: exact at strength 1, nothing at 0, whatever samples the clip."""

import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise, SamplerCustomAdvanced
from generative_inbetweening.nodes import InbetweenDualDirectionGuider, InbetweenMiddleKeyframe
from generative_inbetweening.sampler.settings import STRATEGIES
from helpers.small_model import FRAMES, encode, pictures, sample

from nodes import NODE_CLASS_MAPPINGS

FRAME = 2
# The latents' size is about 1; three steps from the highest noise level take off that many digits.
EXACT = {"rtol": 0, "atol": 1e-3}


def chain(*keyframes):
    """The nodes one after the other; each of (picture, frame, strength)."""
    found = {}
    for picture, frame, strength in keyframes:
        (result,) = InbetweenMiddleKeyframe.execute(picture, frame, strength, **found).args
        found = {"middle_keyframes": result}
    return found["middle_keyframes"]


def middle_picture() -> torch.Tensor:
    return pictures()[0].transpose(1, 2).contiguous()


def with_middle(models, strength=1.0, **changes):
    return encode(models, middle_keyframes=chain((middle_picture(), FRAME, strength)), **changes)


@pytest.fixture(scope="module")
def keyframe(models) -> torch.Tensor:
    """Its latent, as the sampled latents' own output has it."""
    return models[2].encode(middle_picture())[0]


@pytest.fixture(scope="module")
def clip(models):
    return with_middle(models)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_frame_is_the_keyframe_in_every_strategy(models, clip, encoded, keyframe, strategy):
    fixed = {"strategy": strategy, "guidance_end": 0.5, "videos_per_call": "1"}
    found = sample(models[0], clip, **fixed)
    assert torch.allclose(found[FRAME], keyframe, **EXACT)
    without = sample(models[0], encoded, **fixed)
    assert (without[FRAME] - keyframe).abs().mean() > 0.1
    # The frames around it follow.
    assert all((found[other] - without[other]).abs().mean() > 1e-3 for other in (1, FRAME + 1) if other != FRAMES - 1)


@pytest.mark.parametrize("strategy", ["dual-direction", "alternating"])
def test_strength_0_is_the_video_without_it(models, encoded, strategy):
    found = sample(models[0], with_middle(models, 0.0), strategy=strategy)
    assert torch.equal(found, sample(models[0], encoded, strategy=strategy))


def test_strength_between_leads_part_of_the_way(models, encoded, keyframe):
    def distance(video):
        return (video[FRAME] - keyframe).abs().mean().item()

    weak, strong = (sample(models[0], with_middle(models, strength)) for strength in (0.2, 0.7))
    assert 0.1 < distance(strong) < distance(weak) < distance(sample(models[0], encoded))


@pytest.mark.parametrize(
    "name",
    [
        "euler_ancestral",
        "heun",
        "dpmpp_2m",
        "dpmpp_3m_sde",
        "lms",
        "res_multistep",
        "euler_cfg_pp",
        "dpmpp_2m_cfg_pp",
        "res_multistep_ancestral_cfg_pp",
        "gradient_estimation_cfg_pp",
        "lcm",
    ],
)
def test_the_frame_is_the_keyframe_with_any_sampler(models, clip, keyframe, name):
    found = sample(models[0], clip, sampler_name=name, reinjections=1, fusion="weighted", videos_per_call="4")
    assert torch.allclose(found[FRAME], keyframe, **EXACT)


def test_a_sampler_that_stops_above_0_leaves_its_own_noise(models, clip, keyframe):
    found = sample(models[0], clip, sampler_name="uni_pc")
    assert torch.allclose(found[FRAME], keyframe, atol=0.05)


def test_denoise_below_1(models, clip, keyframe):
    latent = {"samples": torch.randn(FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(3))}
    found = sample(models[0], (*clip[:2], latent), denoise=0.5)
    assert torch.allclose(found[FRAME], keyframe, **EXACT)


def test_where_a_noise_mask_keeps_the_latents_frame_it_stays(models, clip, keyframe):
    own = torch.randn(FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    mask = torch.ones(FRAMES, 8, 8)
    mask[FRAME, :, :4] = 0
    found = sample(models[0], (*clip[:2], {"samples": own, "noise_mask": mask}))
    assert torch.allclose(found[FRAME, ..., :4], own[FRAME, ..., :4], **EXACT)
    assert torch.allclose(found[FRAME, ..., 4:], keyframe[..., 4:], **EXACT)


def test_the_guider_node_with_the_hosts_sampler_node(models, clip, keyframe):
    (guider,) = InbetweenDualDirectionGuider.execute(
        models[0], *clip[:2], guidance_min=1.0, guidance_max=1.0, fusion="average", videos_per_call="2",
        strategy="time-reversal", temporal_attention="own",
    ).args  # fmt: skip
    model = models[0].get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(model, "karras", 3)
    sampler = comfy.samplers.sampler_object("euler")
    result = SamplerCustomAdvanced.execute(Noise_RandomNoise(1), guider, sampler, sigmas, clip[2]).args[0]["samples"]
    assert torch.allclose(result[FRAME], keyframe, **EXACT)


def test_several_keyframes_in_any_order(models, keyframe):
    other = pictures()[1].transpose(1, 2).contiguous()
    encoded = encode(models, middle_keyframes=chain((middle_picture(), FRAME, 1.0), (other, 1, 1.0)))
    found = sample(models[0], encoded)
    assert torch.allclose(found[FRAME], keyframe, **EXACT)
    assert torch.allclose(found[1], models[2].encode(other)[0], **EXACT)


def test_a_picture_of_another_size_is_fitted_and_has_no_augmentation_noise(models):
    wide = torch.rand(1, 64, 96, 3, generator=torch.Generator().manual_seed(2))
    positive, _, _ = encode(models, middle_keyframes=chain((wide, 1, 1.0)), noise_augmentation=0.5)
    found = positive[0][1]["inbetween_middle_keyframes"].latents
    assert torch.equal(found, models[2].encode(wide[:, :, 16:80]))


@pytest.mark.parametrize(("strength", "remarks"), [(0.0, 0), (0.1, 1)])
def test_the_aspect_of_one_that_counts_is_remarked_on(models, caplog, strength, remarks):
    encode(models, middle_keyframes=chain((torch.rand(1, 64, 160, 3), 1, strength)))
    assert sum("has another aspect" in record.getMessage() for record in caplog.records) == remarks


@pytest.mark.parametrize("frame", [FRAMES - 1, FRAMES, 500])
def test_a_frame_at_the_end_or_behind_it(models, frame):
    with pytest.raises(ValueError, match=rf"^middle_keyframes: expected a frame from 1 to 2, .*, found {frame}\. "):
        encode(models, middle_keyframes=chain((middle_picture(), frame, 1.0)))
    with pytest.raises(ValueError, match="^middle_keyframes: expected none, with 2 frames"):
        encode(models, frames=2, middle_keyframes=chain((middle_picture(), 1, 1.0)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 1.0), "frame: expected at least 1, found 0"),
        ((-1, 1.0), "frame: expected at least 1, found -1"),
        ((1.5, 1.0), "frame: expected a whole number"),
        ((1, 1.01), "strength: expected at most 1.0, found 1.01"),
        ((1, -0.1), "strength: expected at least 0.0, found -0.1"),
        ((1, float("nan")), "strength: expected a number"),
    ],
)
def test_frames_and_strengths_out_of_range(values, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        chain((middle_picture(), *values))


def test_two_keyframes_at_one_frame(models):
    with pytest.raises(ValueError, match=r"^frame: expected a frame that no other middle keyframe has, found 1, .*\.$"):
        chain((middle_picture(), 1, 1.0), (middle_picture(), 1, 0.5))


def test_a_batch_where_one_picture_is_wanted():
    with pytest.raises(ValueError, match="^image: expected one picture, found 2"):
        chain((middle_picture().repeat(2, 1, 1, 1), 1, 1.0))


@pytest.mark.parametrize(
    "value", [[], (1,), {"samples": 1}, "keyframes", pictures()[0]], ids=lambda each: type(each).__name__
)
def test_something_else_by_the_link(models, value):
    with pytest.raises(ValueError, match=r"^middle_keyframes: expected middle keyframes, found .*\.$"):
        encode(models, middle_keyframes=value)
    with pytest.raises(ValueError, match=r"^middle_keyframes: expected middle keyframes, found .*\.$"):
        InbetweenMiddleKeyframe.execute(middle_picture(), 1, 1.0, value)


def test_conditioning_that_another_node_has_broken(models, clip):
    positive, negative, latent = clip
    options = positive[0][1]
    for broken in ("text", options["inbetween_middle_keyframes"].latents):
        changed = [[positive[0][0], {**options, "inbetween_middle_keyframes": broken}]]
        with pytest.raises(ValueError, match="^positive: expected the embeddings and latents of keyframes"):
            sample(models[0], (changed, negative, latent))


def test_combined_conditioning_is_led_to_them_whichever_part_has_them(models, clip, encoded, keyframe):
    combine = NODE_CLASS_MAPPINGS["ConditioningCombine"]().combine
    for parts in ((clip, encoded), (encoded, clip), (clip, with_middle(models, motion_bucket=20))):
        (positive,) = combine(*(part[0] for part in parts))
        assert torch.allclose(sample(models[0], (positive, *encoded[1:]))[FRAME], keyframe, **EXACT)
    (positive,) = combine(clip[0], with_middle(models, 0.5)[0])
    with pytest.raises(ValueError, match="^positive: expected the same middle keyframes in all parts"):
        sample(models[0], (positive, *encoded[1:]))


@pytest.mark.parametrize("strategy", ["endpoint-correction", "alternating"])
def test_combined_conditioning_of_several_pairs_where_one_pair_is_wanted(models, encoded, strategy):
    (positive,) = NODE_CLASS_MAPPINGS["ConditioningCombine"]().combine(encoded[0], encode(models, swapped=True)[0])
    assert sample(models[0], (positive, *encoded[1:]), strategy="time-reversal", steps=1).isfinite().all()
    with pytest.raises(ValueError, match="^positive: expected one pair of keyframes"):
        sample(models[0], (positive, *encoded[1:]), strategy=strategy)
