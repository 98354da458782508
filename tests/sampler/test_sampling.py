"""Dual-directional sampling with the rest of the host: every sampler, LoRA, masks, memory, errors in the middle."""

import comfy.hooks
import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.sd
import latent_preview
import pytest
import torch
from generative_inbetweening.nodes import InbetweenLoadSVD
from generative_inbetweening.sampler.unet_patches import UNET_CALL, temporal_attention_layers
from helpers.small_model import FRAMES, SETTINGS, SIZE, calling, encode, plain_ksampler, sample, unpatched, watched

from nodes import SetLatentNoiseMask

ROUNDING = {"rtol": 1e-3, "atol": 2e-3}


def test_an_exception_while_sampling_leaves_nothing_behind(models, encoded, expected):
    calls = []

    def fails(arguments):
        calls.append(arguments)
        if len(calls) == 2:
            assert not unpatched(models[0])
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        sample(watched(models[0], fails), encoded)
    assert unpatched(models[0])
    assert torch.equal(sample(models[0], encoded), expected)


def test_interrupt_stops_within_one_evaluation(models, encoded, expected):
    calls = []

    def interrupts(arguments):
        calls.append(arguments)
        comfy.model_management.interrupt_current_processing()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(watched(models[0], interrupts), encoded, steps=20)
    assert len(calls) == 1
    assert unpatched(models[0])
    assert torch.equal(sample(models[0], encoded), expected)


def test_plain_ksampler_on_the_same_model_is_not_touched(models, encoded):
    plain, _, _ = InbetweenLoadSVD.execute("tiny-svd-xt/").args
    before = plain_ksampler(plain, encoded)
    sample(models[0], encoded)
    assert torch.equal(plain_ksampler(models[0], encoded), before)


def test_one_unet_and_two_percent_are_loaded(models, encoded):
    sample(models[0], encoded)
    loaded = [entry.model.model for entry in comfy.model_management.current_loaded_models]
    sampling = {id(model): model for model in loaded if model not in (models[1].model, models[2].first_stage_model)}
    unets = [model for model in sampling.values() if hasattr(model, "diffusion_model")]
    assert models[0].model in unets

    def size(model):
        return sum(parameter.numel() for parameter in model.parameters())

    bank = models[0].get_attachment("inbetween_backward_motion").weights
    assert any(model is bank for model in sampling.values())
    assert size(models[0].model) + size(bank) <= 1.02 * size(models[0].model)


def test_same_seed_same_video_other_seed_another(models, encoded, expected):
    assert torch.equal(sample(models[0], encoded), expected)
    assert not torch.allclose(sample(models[0], encoded, seed=2), expected, **ROUNDING)


def test_the_global_generator_does_not_matter(models, encoded):
    torch.manual_seed(5)
    first = sample(models[0], encoded, reinjections=1)
    torch.manual_seed(6)
    assert torch.equal(sample(models[0], encoded, reinjections=1), first)


def test_lora_changes_both_directions(models, encoded, expected):
    key = "diffusion_model.input_blocks.1.1.time_stack.0.attn1.to_v.weight"
    model = models[0].clone()
    weight = model.model.state_dict()[key]
    assert model.add_patches({key: ("diff", (torch.randn(weight.shape, generator=torch.manual_seed(0)),))}, 0.5)
    paired = sample(model, encoded)
    assert not torch.allclose(paired, expected, **ROUNDING)
    assert torch.allclose(sample(model, encoded, videos_per_call="1"), paired, **ROUNDING)
    assert torch.equal(sample(models[0], encoded), expected)


def test_lora_hooks_on_the_conditioning_reach_both_directions(models, encoded, expected):
    layer = "diffusion_model.input_blocks.1.1.time_stack.0.attn1.to_v"
    up, down = torch.randn(2, 32, 4, generator=torch.manual_seed(0))
    lora = {f"{layer}.lora_up.weight": up, f"{layer}.lora_down.weight": down.T.contiguous()}
    positive, negative, latent = encoded
    hooked = [
        comfy.hooks.set_hooks_for_conditioning(conditioning, comfy.hooks.create_hook_lora(lora, 1.0, 0.0))
        for conditioning in (positive, negative)
    ]
    whole, _ = comfy.sd.load_lora_for_models(models[0], None, lora, 1.0, 0.0)
    result = sample(models[0], (*hooked, latent))
    assert not torch.allclose(result, expected, **ROUNDING)
    assert torch.allclose(result, sample(whole, encoded), **ROUNDING)


def test_two_checkpoints_one_after_the_other(models, encoded, expected):
    other, _, _ = InbetweenLoadSVD.execute("tiny-svd-xt/").args
    sample(other, encoded, strategy="time-reversal")
    assert torch.equal(sample(models[0], encoded), expected)


def test_two_samplers_in_one_graph_do_not_meet(models, encoded, expected):
    weighted = sample(models[0], encoded, fusion="weighted")
    assert not torch.allclose(weighted, expected, **ROUNDING)
    assert torch.equal(sample(models[0], encoded), expected)
    assert torch.equal(sample(models[0], encoded, fusion="weighted"), weighted)


def test_lower_denoise_keeps_more_of_the_latent(models, encoded):
    positive, negative, latent = encoded
    video = torch.randn(latent["samples"].shape, generator=torch.manual_seed(1))
    latent = {"samples": video}
    # One step from one of the lowest noise levels, and from the highest.
    little, whole = (
        sample(models[0], (positive, negative, latent), denoise=denoise, steps=1) - video for denoise in (0.05, 1.0)
    )
    assert little.abs().mean() < 0.1 < 1 < whole.abs().mean()


def test_latent_mask_keeps_what_it_protects(models, encoded):
    positive, negative, latent = encoded
    video = torch.randn(latent["samples"].shape, generator=torch.manual_seed(1))
    mask = torch.zeros(FRAMES, SIZE // 8, SIZE // 8)
    # The first two frames in forward time only: a direction that mixed up time would touch the others.
    mask[:2] = 1
    (masked,) = SetLatentNoiseMask().set_mask({"samples": video}, mask)
    result = sample(models[0], (positive, negative, masked))
    assert torch.allclose(result[2:], video[2:], atol=1e-4)
    assert not torch.allclose(result[:2], video[:2], atol=1e-1)


def test_conditioning_mask_and_time_range_mean_the_same_in_both_directions(models, encoded):
    positive, negative, latent = encoded
    mask = torch.ones(1, SIZE // 8, SIZE // 8)
    masked = [
        [embedding, {**options, "mask": mask, "start_percent": 0.0, "end_percent": 1.0}]
        for embedding, options in positive
    ]
    assert torch.allclose(sample(models[0], (masked, negative, latent)), sample(models[0], encoded), **ROUNDING)


def test_swapped_keyframes_mirror_the_video_when_both_directions_are_alike(models, encoded, monkeypatch):
    positive, negative, latent = encode(models, swapped=True)
    forward = sample(models[0], encoded, strategy="time-reversal")
    prepare_noise = comfy.sample.prepare_noise
    monkeypatch.setattr(comfy.sample, "prepare_noise", lambda *arguments: prepare_noise(*arguments).flip(0))
    mirrored = sample(models[0], (positive, negative, latent), strategy="time-reversal")
    assert torch.allclose(mirrored.flip(0), forward, **ROUNDING)


def test_jumps_are_counted_and_one_that_does_not_fit_is_told(models, encoded, caplog):
    calls, expected = [], sample(models[0], encoded, steps=4)
    found = sample(calling(models[0], calls.append), encoded, steps=4, reinjections=2, jump_length=5)
    assert "does not fit into the first 2 of 4 steps" in caplog.text
    assert torch.equal(found, expected) and len(calls) == 2 * 4
    caplog.clear(), calls.clear()
    model = calling(models[0], calls.append)
    jumped = sample(model, encoded, steps=4, reinjections=2, reinjection_share=0.75, jump_length=2)
    assert not caplog.text and len(calls) == 2 * (4 + 2 * 2)
    assert not torch.allclose(jumped, expected, **ROUNDING)


@pytest.mark.slow
@pytest.mark.parametrize("sampler_name", comfy.samplers.KSampler.SAMPLERS)
def test_every_sampler_runs_with_reinjection(models, encoded, sampler_name):
    levels = []
    model = watched(models[0], lambda arguments: levels.append(float(arguments["timestep"][0])))
    settings = {"sampler_name": sampler_name, "steps": 3, "guidance_max": 1.0, "videos_per_call": "4"}
    result = sample(model, encoded, reinjections=1, **settings)
    assert torch.isfinite(result).all()
    # The first of the steps is made twice: back at its noise level and through the same evaluations, then onwards.
    first, second = (number for number, level in enumerate(levels) if level == max(levels))
    step, again, onwards = levels[first:second], levels[second : 2 * second], levels[2 * second :]
    assert first == 0 and max(onwards) < max(levels) and min(onwards) < min(step)
    # The adaptive sampler chooses its own steps by what it finds.
    assert again == step or sampler_name == "dpm_adaptive"


def test_progress_counts_evaluations_and_ends_full(models, encoded, monkeypatch):
    seen = []
    prepare = latent_preview.prepare_callback

    def counting(model, steps, *rest):
        callback = prepare(model, steps, *rest)
        return lambda step, x0, x, total: (seen.append((step + 1, total)), callback(step, x0, x, total))

    monkeypatch.setattr(latent_preview, "prepare_callback", counting)
    calls = []
    model = watched(models[0], calls.append)
    sample(model, encoded, steps=4, reinjections=2, reinjection_share=0.5)
    assert {total for _, total in seen} == {8} and seen[-1] == (8, 8)
    assert len(calls) == 2 * 8
    seen.clear(), calls.clear()
    sample(model, encoded, steps=3, sampler_name="heun")
    assert seen[-1][0] == seen[-1][1] == len(calls) / 2 == 5


def test_guidance_of_one_leaves_out_the_unconditional_half(models, encoded):
    calls = []
    sample(watched(models[0], calls.append), encoded, guidance_min=1.0, guidance_max=1.0)
    assert len(calls) == SETTINGS["steps"]
    assert all(arguments["c"]["transformer_options"]["cond_or_uncond"] == [0, 0] for arguments in calls)


def test_all_temporal_attentions_are_shared(models, encoded):
    seen = []
    sample(watched(models[0], lambda arguments: seen.append(arguments["c"]["transformer_options"][UNET_CALL])), encoded)
    assert len(temporal_attention_layers(models[0].model)) == 16
    assert all(call.layers_done == 16 and not call.maps for call in seen)
