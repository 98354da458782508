"""Strategies, the guidance interval, schedules and presets against their plain statements."""

import dataclasses

import comfy.model_management
import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import Noise_EmptyNoise, Noise_RandomNoise, SamplerCustomAdvanced
from generative_inbetweening.nodes import (
    InbetweenDualDirectionGuider,
    InbetweenDualDirectionKSampler,
    InbetweenKeyframeSequence,
    InbetweenLoadSVD,
    InbetweenSettings,
)
from generative_inbetweening.sampler import settings as presets
from generative_inbetweening.sampler.ksampler import align_your_steps
from generative_inbetweening.sampler.settings import STRATEGIES, TRAINING_FREE, VIDEOS_PER_CALL
from helpers.small_model import FRAMES, SEED, sample, settings, unpatched, watched

ROUNDING = {"rtol": 1e-3, "atol": 2e-3}
ENDPOINT_CORRECTION = "endpoint-correction"
MOTION_PRIOR = "motion-prior-distillation"
ALTERNATING = [name for name, fixed in STRATEGIES.items() if fixed.get("alternating")]


def by_preset(model, encoded, preset: str, **connected) -> torch.Tensor:
    """The Dual-Direction KSampler's latents as its widgets and links say."""
    run = InbetweenDualDirectionKSampler.execute(model, *encoded, SEED, preset, 1.0, **connected)
    return run.args[0]["samples"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ALTERNATING)
def test_alternating_strategies_end_at_both_keyframes_in_every_videos_per_call(models, encoded, strategy):
    calls = []
    model = watched(models[0], lambda arguments: calls.append(arguments["input"].shape[0] // FRAMES))
    results = {}
    for order in VIDEOS_PER_CALL:
        calls.clear()
        results[order] = sample(model, encoded, strategy=strategy, steps=3, videos_per_call=order, reinjections=5)
        # With and without conditioning in each half-step, and no re-injections.
        assert sum(calls) == 2 * (6 if strategy != MOTION_PRIOR else 9)
    for order in VIDEOS_PER_CALL[1:]:
        assert torch.allclose(results[order], results[VIDEOS_PER_CALL[0]], **ROUNDING)
    # The backward direction has the last word: the far end from it is the first keyframe.
    first = encoded[0][0][1]["concat_latent_image"]
    assert torch.allclose(results["2"][:1], first, atol=1e-3)
    assert torch.isfinite(results["2"]).all()


@pytest.mark.parametrize("strategy", ALTERNATING)
def test_alternating_strategies_keep_what_a_noise_mask_keeps(models, encoded, strategy):
    """The first and the last frame, too, which without a mask end at the keyframes."""
    positive, negative, latent = encoded
    kept, mask = torch.randn(latent["samples"].shape, generator=torch.manual_seed(0)), torch.ones(FRAMES, 8, 8)
    mask[0, :4] = mask[1] = mask[-1, 4:] = 0
    latent = {"samples": kept, "noise_mask": mask}
    result = sample(models[0], (positive, negative, latent), strategy=strategy, denoise=0.6, steps=2)
    held = mask[:, None].expand_as(kept) == 0
    assert torch.allclose(result[held], kept[held], **ROUNDING)
    assert not torch.allclose(result[0, :, 4:], kept[0, :, 4:], **ROUNDING)


def test_backward_motion_and_the_maps_matter_to_alternating_sampling(models, encoded):
    free = sample(models[0], encoded, strategy="alternating", steps=3)
    tuned = {
        maps: sample(models[0], encoded, strategy="alternating-backward-motion", steps=3, temporal_attention=maps)
        for maps in ("rotated", "own")
    }
    assert not torch.allclose(free, tuned["own"], **ROUNDING)
    assert not torch.allclose(tuned["rotated"], tuned["own"], **ROUNDING)


@pytest.mark.parametrize(
    ("chosen", "evaluations"),
    [
        ({"strategy": "alternating"}, 8),
        ({"strategy": MOTION_PRIOR}, 8 + 3),
        ({"strategy": MOTION_PRIOR, "distilled_share": 0.5, "distillations": 2}, 8 + 4),
        ({"strategy": MOTION_PRIOR, "distilled_share": 0.0}, 8),
    ],
)
def test_alternating_counts_its_evaluations(models, encoded, chosen, evaluations):
    calls = []
    guider = InbetweenDualDirectionGuider.execute(
        models[0], *encoded[:2], temporal_attention="own", videos_per_call="2", **chosen
    ).args[0]
    noise = torch.randn(FRAMES, 4, 8, 8)
    guider.sample(
        noise,
        encoded[2]["samples"],
        comfy.samplers.sampler_object("euler"),
        align_your_steps(4),
        callback=lambda done, x0, x, total: calls.append((done + 1, total)),
        disable_pbar=True,
    )
    assert calls[-1] == (evaluations, evaluations)


def test_distillation_changes_the_video_and_without_it_the_video_is_the_alternating_one(models, encoded):
    plain, distilled, none = (
        sample(models[0], encoded, **chosen)
        for chosen in (
            {"strategy": "alternating"},
            {"strategy": MOTION_PRIOR},
            {"strategy": MOTION_PRIOR, "distilled_share": 0.0},
        )
    )
    assert torch.equal(none, plain) and not torch.allclose(distilled, plain, **ROUNDING)


def test_endpoint_correction_computes_one_direction_in_every_videos_per_call(models, encoded):
    calls = []
    model = watched(models[0], lambda arguments: calls.append(arguments["input"].shape[0] // FRAMES))
    results = {}
    for order in VIDEOS_PER_CALL:
        calls.clear()
        results[order] = sample(
            model, encoded, strategy=ENDPOINT_CORRECTION, steps=4, reinjections=1, videos_per_call=order
        )
        assert sum(calls) == 2 * (4 + 2)
    for order in VIDEOS_PER_CALL[1:]:
        assert torch.allclose(results[order], results[VIDEOS_PER_CALL[0]], **ROUNDING)
    calls.clear()
    sample(model, encoded, strategy=ENDPOINT_CORRECTION, steps=4, guidance_max=1.0)
    assert sum(calls) == 4


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("guidance_max", [1.0, 3.0])
def test_an_evaluation_takes_as_many_videos_as_announced(models, encoded, strategy, guidance_max):
    calls = []
    model = watched(models[0], lambda arguments: calls.append(arguments["input"].shape[0] // FRAMES))
    chosen = settings(strategy=strategy, guidance_max=guidance_max)
    sample(model, encoded, strategy=strategy, guidance_max=guidance_max)
    assert sum(calls) == chosen.guider.videos_of_an_evaluation() * chosen.sampler.sampler_steps(chosen.guider)


def test_alternating_refuses_another_sampler(models, encoded):
    with pytest.raises(ValueError, match="sampler_name: expected euler, found heun"):
        sample(models[0], encoded, strategy="alternating", sampler_name="heun")


def test_interrupt_in_the_middle_of_alternating_sampling_leaves_nothing_behind(models, encoded):
    def interrupts(arguments):
        comfy.model_management.interrupt_current_processing()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(watched(models[0], interrupts), encoded, strategy="alternating")
    assert unpatched(models[0])


def test_a_model_without_backward_weights_is_told_which_strategies_need_none(models, encoded):
    plain, _, _ = InbetweenLoadSVD.execute("tiny-svd-xt/").args
    for strategy in STRATEGIES:
        if strategy in TRAINING_FREE:
            assert torch.isfinite(sample(plain, encoded, strategy=strategy)).all()
            continue
        with pytest.raises(ValueError, match="^model: expected backward-motion weights") as error:
            sample(plain, encoded, strategy=strategy)
        assert all(f"`{name}`" in str(error.value) for name in TRAINING_FREE)


def test_guidance_in_part_of_the_noise_range_skips_the_unconditional_half_elsewhere(models, encoded):
    calls = []
    model = watched(
        models[0],
        lambda arguments: calls.append(
            (float(arguments["timestep"][0]), arguments["c"]["transformer_options"]["cond_or_uncond"])
        ),
    )
    sample(model, encoded, steps=8, guidance_start=0.3, guidance_end=0.7)
    sampling = models[0].model.model_sampling
    highest, lowest = sampling.percent_to_sigma(0.3), sampling.percent_to_sigma(0.7)
    guided = {sigma for sigma, halves in calls if 1 in halves}
    levels = {sigma for sigma, _ in calls}
    assert guided == {sigma for sigma in levels if lowest <= sigma <= highest}
    assert 0 < len(guided) < len(levels) == 8


def test_whole_and_empty_guidance_intervals(models, encoded):
    whole = sample(models[0], encoded)
    assert torch.equal(sample(models[0], encoded, guidance_start=0.0, guidance_end=1.0), whole)
    none = sample(models[0], encoded, guidance_start=0.5, guidance_end=0.5)
    assert torch.allclose(none, sample(models[0], encoded, guidance_min=1.0, guidance_max=1.0), **ROUNDING)
    with pytest.raises(ValueError, match="^guidance_start: expected at most guidance_end"):
        sample(models[0], encoded, guidance_start=0.8, guidance_end=0.2)


def test_cfg_pp_samplers_go_without_guidance_outside_the_interval(models, encoded):
    without = sample(models[0], encoded, sampler_name="euler_cfg_pp", guidance_min=1.0, guidance_max=1.0)
    outside = sample(models[0], encoded, sampler_name="euler_cfg_pp", guidance_start=0.5, guidance_end=0.5)
    assert torch.allclose(outside, without, **ROUNDING)


def test_align_your_steps_has_the_published_levels():
    levels = align_your_steps(10)
    assert levels[:3].tolist() == pytest.approx([700.0, 54.5, 15.886]) and levels[-1] == 0
    assert (align_your_steps(25).diff() < 0).all() and len(align_your_steps(25)) == 26


def test_align_your_steps_samples(models, encoded):
    levels = []
    model = watched(models[0], lambda arguments: levels.append(float(arguments["timestep"][0])))
    sample(model, encoded, scheduler="align_your_steps", steps=5)
    assert sorted(set(levels), reverse=True) == pytest.approx(align_your_steps(5)[:-1].tolist())
    levels.clear()
    sample(model, encoded, scheduler="align_your_steps", steps=5, denoise=0.5)
    assert sorted(set(levels), reverse=True) == pytest.approx(align_your_steps(10)[5:-1].tolist())


@pytest.mark.slow
def test_paper_preset_is_the_released_setting_bit_for_bit(models, encoded, monkeypatch):
    # The released number of steps takes minutes here; a shorter run of both has the same steps in it.
    monkeypatch.setitem(presets.PRESETS, "paper", {**presets.PRESETS["paper"], "steps": 2})
    released = {
        "strategy": "dual-direction",
        "temporal_attention": "rotated",
        "fusion": "average",
        "guidance_min": 1.0,
        "guidance_max": 3.0,
        "guidance_start": 0.0,
        "guidance_end": 1.0,
        "sampler_name": "euler",
        "scheduler": "karras",
        "reinjections": 5,
        "reinjection_share": 0.5,
    }
    by_hand = sample(models[0], encoded, **released, steps=2)
    assert torch.equal(by_preset(models[0], encoded, "paper"), by_hand)


def test_inputs_of_the_settings_hold_what_the_default_preset_says():
    schema = {entry.id: entry for entry in InbetweenSettings.define_schema().inputs}
    assert set(schema) == {"preset", "videos_per_call", *presets.DEFAULTS}
    for name, value in presets.DEFAULTS.items():
        assert schema[name].default == value
    for node in (InbetweenSettings, InbetweenDualDirectionKSampler, InbetweenKeyframeSequence):
        assert {entry.id: entry for entry in node.define_schema().inputs}["preset"].default == "paper"
    assert presets.PRESETS["paper"] == presets.DEFAULTS


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_settings_that_a_graph_leaves_out_are_the_presets(preset):
    (chosen,) = InbetweenSettings.execute(preset).args
    assert (
        chosen
        == presets.chosen_settings(preset)
        == InbetweenSettings.execute(preset, **presets.PRESETS[preset]).args[0]
    )
    (changed,) = InbetweenSettings.execute(preset, steps=33, guidance_end=0.5).args
    assert changed.sampler == dataclasses.replace(chosen.sampler, steps=33)
    assert changed.guider == dataclasses.replace(chosen.guider, guidance_end=0.5)


def test_connected_settings_count_in_place_of_the_preset(models, encoded):
    chosen = settings(steps=1, fusion="weighted")
    expected = sample(models[0], encoded, steps=1, fusion="weighted")
    for preset in presets.PRESETS:
        assert torch.equal(by_preset(models[0], encoded, preset, settings=chosen), expected)


@pytest.mark.slow
@pytest.mark.parametrize("preset", [name for name in presets.PRESETS if name != "paper"])
def test_presets_take_as_much_work_as_they_say(models, encoded, preset):
    calls = []
    model = watched(models[0], lambda arguments: calls.append(arguments["input"].shape[0] // FRAMES))
    assert torch.isfinite(by_preset(model, encoded, preset)).all()
    assert sum(calls) == {"balanced": 38, "fast": 16, "training-free": 28}[preset]


@pytest.mark.slow
def test_training_free_preset_needs_no_backward_weights(models, encoded):
    plain, _, _ = InbetweenLoadSVD.execute("tiny-svd-xt/").args
    assert torch.equal(
        by_preset(plain, encoded, "training-free"),
        by_preset(models[0], encoded, "training-free"),
    )


def test_a_preset_that_there_is_not_is_named(models, encoded):
    with pytest.raises(ValueError, match="^preset: expected one of paper, balanced, .*found 'slow'"):
        by_preset(models[0], encoded, "slow")
    with pytest.raises(ValueError, match="^preset: expected one of paper, balanced, .*found 'custom'"):
        InbetweenSettings.execute("custom")


def test_only_the_first_part_of_a_split_run_distils(models, encoded):
    sigmas = comfy.samplers.calculate_sigmas(models[0].get_model_object("model_sampling"), "karras", 4)
    calls = []
    model = watched(models[0], lambda arguments: calls.append(arguments["input"].shape[0] // FRAMES))
    (guider,) = InbetweenDualDirectionGuider.execute(
        model, *encoded[:2], guidance_min=1.0, guidance_max=1.0, fusion="average", videos_per_call="2",
        strategy=MOTION_PRIOR, temporal_attention="own", distilled_share=1.0, distillations=3,
    ).args  # fmt: skip
    latent, evaluations = encoded[2], []
    for noise, part in ((Noise_RandomNoise(SEED), sigmas[:3]), (Noise_EmptyNoise(), sigmas[2:])):
        calls.clear()
        sampler = comfy.samplers.sampler_object("euler")
        latent = SamplerCustomAdvanced.execute(noise, guider, sampler, part, latent).args[0]
        evaluations.append(sum(calls) // 2)
    assert evaluations == [2 * (2 + 3), 2 * 2] and latent["samples"].isfinite().all()
