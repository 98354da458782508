"""What other nodes' functions are given in each direction, and memory that runs out in the middle of it."""

from pathlib import Path

import comfy.model_management
import comfy.patcher_extension
import comfy.samplers
import folder_paths
import pytest
import torch
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfy_extras.nodes_eps import EpsilonScaling
from comfy_extras.nodes_model_downscale import PatchModelAddDownscale
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_video_model import VideoLinearCFGGuidance
from generative_inbetweening.nodes import InbetweenLoadBackwardMotion, InbetweenLoadSVD, InbetweenSettings
from generative_inbetweening.sampler.settings import VIDEOS_PER_CALL
from helpers.small_model import encode, plain_ksampler, sample

DEMO = Path(__file__).resolve().parents[2] / "demo"
WRAPPERS = comfy.patcher_extension.WrappersMP
ROUNDING = {"rtol": 1e-3, "atol": 2e-3}
ALL = ["dual-direction", "time-reversal", "endpoint-correction", "alternating", "alternating-backward-motion"]
pytestmark = pytest.mark.slow


def test_svds_own_guidance_is_ours_with_weighted_fusion(models, encoded):
    ours = sample(models[0], encoded, fusion="weighted")
    (model,) = VideoLinearCFGGuidance().patch(models[0], 1.0)
    assert torch.allclose(sample(model, encoded, fusion="weighted"), ours, **ROUNDING)
    # Its ramp ends at the number that it is given, with average fusion the one scale of both directions.
    (other,) = VideoLinearCFGGuidance().patch(models[0], 2.0)
    assert torch.allclose(sample(other, encoded), sample(models[0], encoded), **ROUNDING)


def test_functions_get_numbers_and_each_direction_in_its_own_time(models, encoded):
    seen = []
    model = models[0].clone()

    def guidance(arguments):
        seen.append(arguments)
        return arguments["uncond"] + arguments["cond_scale"] * (arguments["cond"] - arguments["uncond"])

    def before(arguments):
        seen.append({**arguments, "input_cond": arguments["conds"][0]})
        return arguments["conds_out"]

    def after(arguments):
        seen.append({**arguments, "input_cond": arguments["cond"]})
        return arguments["denoised"]

    model.set_model_sampler_pre_cfg_function(before)
    model.set_model_sampler_cfg_function(guidance)
    model.set_model_sampler_post_cfg_function(after)
    result = sample(model, encoded, steps=1)
    assert torch.allclose(result, sample(models[0], encoded, steps=1), **ROUNDING)
    assert len(seen) == 6 and all(isinstance(each["cond_scale"], float) for each in seen)
    for forward, backward in zip(seen[:3], seen[3:]):
        assert torch.equal(forward["input"], backward["input"].flip(0))
        assert not torch.equal(forward["input_cond"][0]["cross_attn"], backward["input_cond"][0]["cross_attn"])


@pytest.mark.parametrize(("guidance", "computed"), [(3.0, True), (1.0, False)])
def test_functions_run_without_guidance_as_the_hosts_do(models, encoded, guidance, computed):
    seen = []
    model = models[0].clone()
    model.set_model_sampler_post_cfg_function(lambda arguments: seen.append(arguments) or arguments["denoised"])
    sample(model, encoded, steps=1, guidance_min=guidance, guidance_max=guidance)
    assert len(seen) == 2
    assert all((each["uncond"] is not None) == computed == bool(each["uncond_denoised"].any()) for each in seen)


def test_a_function_in_guidances_place_is_asked_without_guidance_too(models, encoded):
    """The host asks it at a scale of 1, but outside the guidance interval there is no guidance at all."""
    model = models[0].clone()
    model.set_model_sampler_cfg_function(lambda arguments: arguments["input"] - 0.5 * arguments["cond_denoised"])
    half = models[0].clone()
    half.set_model_sampler_post_cfg_function(lambda arguments: 0.5 * arguments["denoised"])
    without = {"guidance_min": 1.0, "guidance_max": 1.0}
    assert torch.allclose(sample(model, encoded, **without), sample(half, encoded, **without), **ROUNDING)
    outside = {"guidance_start": 0.999, "steps": 1}
    assert torch.allclose(sample(model, encoded, **outside), sample(models[0], encoded, **outside), **ROUNDING)


@pytest.mark.parametrize("strategy", ALL)
@pytest.mark.parametrize("order", ["4", "1"])
def test_a_function_that_calls_the_model_gets_the_same_estimate(models, encoded, strategy, order):
    differences = []
    model = models[0].clone()

    def calls_again(arguments):
        for cond, estimate in (("cond", "cond_denoised"), ("uncond", "uncond_denoised"), ("cond", "cond_denoised")):
            (again,) = comfy.samplers.calc_cond_batch(
                arguments["model"],
                [arguments[cond]],
                arguments["input"],
                arguments["sigma"],
                arguments["model_options"],
            )
            differences.append((again - arguments[estimate]).abs().max() / arguments[estimate].abs().max())
        return arguments["denoised"]

    model.set_model_sampler_post_cfg_function(calls_again, disable_cfg1_optimization=True)
    sample(model, encoded, steps=2, strategy=strategy, videos_per_call=order)
    assert len(differences) == 2 * 2 * 3 and max(differences) < 1e-3


def test_a_wrapper_may_set_another_scale(models, encoded):
    model = models[0].clone()

    def override(executor, *arguments, **more):
        guider, saved = executor.class_obj, executor.class_obj.cfg
        guider.cfg = 1.0
        try:
            return executor(*arguments, **more)
        finally:
            guider.cfg = saved

    model.add_wrapper(WRAPPERS.PREDICT_NOISE, override)
    for fusion in ("average", "weighted"):
        assert torch.allclose(
            sample(model, encoded, fusion=fusion),
            sample(models[0], encoded, fusion=fusion, guidance_min=1.0, guidance_max=1.0),
            **ROUNDING,
        )


def test_attention_input_patches_act_on_the_temporal_layers(models, encoded):
    patched, doubled = models[0].clone(), models[0].clone()
    patched.set_model_attn1_patch(lambda q, k, v, options: (q, k, 2 * v))
    weights = {key: value for key, value in models[0].model.state_dict().items() if key.endswith(".attn1.to_v.weight")}
    assert len(weights) == 32
    doubled.add_patches({key: ("diff", (value.clone(),)) for key, value in weights.items()})
    expected = sample(doubled, encoded, strategy="time-reversal", steps=2)
    assert torch.allclose(sample(patched, encoded, strategy="time-reversal", steps=2), expected, rtol=1e-2, atol=1e-2)


def test_a_patch_sees_both_guidance_halves_of_one_direction(models, encoded, expected):
    seen = []
    model = models[0].clone()
    model.set_model_attn1_output_patch(
        lambda out, options: seen.append((tuple(options["cond_or_uncond"]), out.shape[0])) or out
    )
    for order in ("4", "2"):
        assert torch.allclose(sample(model, encoded, videos_per_call=order), expected, **ROUNDING)
    assert {halves for halves, _ in seen} == {(1, 0)}


def test_several_nodes_at_once_in_every_order(models, encoded, expected):
    (model,) = VideoLinearCFGGuidance().patch(models[0], 1.0)
    for node, inputs in (
        (EpsilonScaling, (1.005,)),
        (PerturbedAttentionGuidance, (1.0,)),
        (PatchModelAddDownscale, (3, 2.0, 0.0, 0.35, True, "bicubic", "bicubic")),
    ):
        (model,) = node.execute(model, *inputs).args
    first, *others = [sample(model, encoded, videos_per_call=order) for order in VIDEOS_PER_CALL]
    assert not torch.allclose(first, expected, **ROUNDING)
    for other in others:
        assert torch.allclose(other, first, rtol=1e-2, atol=1e-2 * first.abs().max())


def videos_computed(model, calls: list) -> None:
    def count(executor, *arguments, **more):
        calls.append(
            len(arguments[-1]["uuids"] if isinstance(arguments[-1], dict) else more["transformer_options"]["uuids"])
        )
        return executor(*arguments, **more)

    model.add_wrapper_with_key(WRAPPERS.DIFFUSION_MODEL, "count", count)


@pytest.mark.parametrize("order", VIDEOS_PER_CALL)
def test_easy_cache_leaves_out_whole_evaluations(models, encoded, order):
    calls = []
    (model,) = EasyCacheNode.execute(models[0], 3.0, 0.15, 0.95, False).args
    videos_computed(model, calls)
    result = sample(model, encoded, steps=10, videos_per_call=order)
    assert torch.isfinite(result).all() and sum(calls) % 4 == 0 and 8 <= sum(calls) < 32
    (nothing,) = EasyCacheNode.execute(models[0], 0.0, 0.15, 0.95, False).args
    assert torch.allclose(sample(nothing, encoded), sample(models[0], encoded), **ROUNDING)


def test_easy_cache_saves_and_costs_what_it_does_in_the_hosts_ksampler(monkeypatch, capsys):
    """On the demo model, 20 steps; prints the videos through the UNet, and how far off the latents are."""
    for kind in ("checkpoints", "backward_motion"):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(DEMO)], {".safetensors"}))
    model, *encoders = InbetweenLoadSVD.execute("demo_svd.safetensors").args
    (model,) = InbetweenLoadBackwardMotion.execute(model, "demo_backward_motion.safetensors", 1.0).args
    encoded, videos, off = encode((model, *encoders), frames=8), [], []
    for run in (plain_ksampler, sample):
        results = []
        for cached in (False, True):
            calls, patched = [], model.clone()
            if cached:
                (patched,) = EasyCacheNode.execute(model, 0.2, 0.15, 0.95, False).args
            videos_computed(patched, calls)
            results.append(run(patched, encoded, steps=20))
            videos.append(sum(calls))
        off.append(float((results[1] - results[0]).norm() / results[0].norm()))
    with capsys.disabled():
        print(
            f"\nEasyCache: {videos[3]} of {videos[2]} videos, latents {off[1]:.3f} off; the host's KSampler "
            f"{videos[1]} of {videos[0]}, {off[0]:.3f} off"
        )
    assert videos[3] < videos[2] == 80 and videos[1] < videos[0] == 40
    assert videos[3] / videos[2] <= videos[1] / videos[0] + 0.1 and off[1] < 0.1


@pytest.mark.parametrize("node", [EasyCacheNode, LazyCacheNode])
@pytest.mark.parametrize("strategy", ["alternating", "alternating-backward-motion"])
def test_caches_are_refused_where_directions_take_turns(models, encoded, node, strategy):
    (model,) = node.execute(models[0], 0.2, 0.15, 0.95, False).args
    with pytest.raises(ValueError, match="^model: (EasyCache|LazyCache) cannot be used.*choose another strategy"):
        sample(model, encoded, strategy=strategy)


def test_schedulers_and_samplers_of_packs_that_come_later(models, encoded, expected, monkeypatch):
    handlers = comfy.samplers.SCHEDULER_HANDLERS
    monkeypatch.setitem(handlers, "late", handlers["karras"])
    monkeypatch.setattr(comfy.samplers.KSampler, "SCHEDULERS", [*comfy.samplers.KSampler.SCHEDULERS, "late"])
    monkeypatch.setattr(comfy.samplers.KSampler, "SAMPLERS", [*comfy.samplers.KSampler.SAMPLERS, "late"])
    offered = InbetweenSettings.INPUT_TYPES()["optional"]
    for name in ("scheduler", "sampler_name"):
        assert "late" in offered[name][1]["options"]
    assert torch.equal(sample(models[0], encoded, scheduler="late"), expected)


def test_nothing_is_read_from_the_device_in_an_evaluation(models, encoded, monkeypatch):
    reads, read = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: reads.append(tensor.shape) or read(tensor))
    counts = []
    for steps in (1, 3):
        sample(models[0], encoded, steps=steps)
        counts.append(len(reads))
        reads.clear()
    assert counts[0] == counts[1]
