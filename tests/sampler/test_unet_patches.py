"""The method in the host's UNet: there while its own run samples, out of it whenever anyone else has it."""

import copy
from collections.abc import Callable

import comfy.hooks
import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import PatcherInjection, WrappersMP
from generative_inbetweening.sampler import unet_patches
from generative_inbetweening.sampler.guider import DualDirectionGuider
from generative_inbetweening.sampler.settings import GuiderSettings
from helpers.small_model import counting, plain_ksampler, sample, unpatched, watched

OURS = {"inbetween_taken_out_first", "inbetween_attention", "inbetween_feed_forward"}
LAYER = "diffusion_model.input_blocks.1.1.time_stack.0.attn1.to_v"


def guided(model, encoded, callback: Callable | None = None) -> torch.Tensor:
    """The guider's latents after two steps."""
    positive, negative, latent = encoded
    guider = DualDirectionGuider(model, positive, negative, GuiderSettings(videos_per_call="1"))
    return guider.sample(
        comfy.sample.prepare_noise(latent["samples"], 1),
        latent["samples"],
        comfy.samplers.ksampler("euler"),
        torch.tensor([20.0, 2.0, 0.0]),
        callback=callback,
        disable_pbar=True,
        seed=1,
    )


def test_the_host_knows_of_them_while_it_samples(models, encoded):
    seen = []

    def look(arguments):
        patcher = models[0].model.current_patcher
        seen.append((set(patcher.injections), patcher.is_injected, unpatched(models[0]), patcher is model))

    model = watched(models[0], look)
    sample(model, encoded, steps=1)
    assert seen == [(OURS, True, False, False)] * len(seen) and seen
    assert not model.injections and unpatched(models[0])


def test_weights_are_patched_with_all_of_it_taken_out(models, encoded, monkeypatch):
    up, down = torch.randn(2, 32, 4, generator=torch.manual_seed(0))
    lora = {f"{LAYER}.lora_up.weight": up, f"{LAYER}.lora_down.weight": down.T.contiguous()}
    hooked = [
        comfy.hooks.set_hooks_for_conditioning(conditioning, comfy.hooks.create_hook_lora(lora, 1.0, 0.0))
        for conditioning in encoded[:2]
    ]
    patch, seen = comfy.model_patcher.ModelPatcher.patch_hook_weight_to_device, []

    def look(patcher, *arguments, **more):
        seen.append((set(patcher.injections), unpatched(models[0])))
        return patch(patcher, *arguments, **more)

    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "patch_hook_weight_to_device", look)
    sample(models[0], (*hooked, encoded[2]), steps=1)
    assert seen == [(OURS, True)] * len(seen) and seen


@pytest.mark.parametrize(
    "error",
    # Kinds: an error that a parameter holds would keep the models of its traceback for the rest of the session.
    [RuntimeError, comfy.model_management.OOM_EXCEPTION, comfy.model_management.InterruptProcessingException],
    ids=["error", "out of memory", "interrupt"],
)
def test_nothing_is_left_when_a_run_ends_early(models, encoded, error):
    patchers = []

    def fails(arguments):
        patchers.append(models[0].model.current_patcher)
        raise error("in the middle")

    with pytest.raises(error):
        sample(watched(models[0], fails), encoded)
    assert unpatched(models[0])
    assert not any(patcher.injections or patcher.is_injected for patcher in patchers)


@pytest.mark.parametrize("other", [plain_ksampler, guided], ids=["KSampler", "guider"])
def test_a_run_within_a_run_has_the_unet_to_itself(models, encoded, other):
    """A callback that samples with the same UNet at every evaluation; the outer run goes on as if there were none."""
    found, untouched = [], []
    inner = watched(models[0], lambda arguments: untouched.append(unpatched(models[0])))
    alone = guided(models[0], encoded), other(inner, encoded)
    untouched.clear()
    result = guided(models[0], encoded, lambda *state: found.append(other(inner, encoded)))
    assert torch.equal(result, alone[0]) and len(found) >= 2
    assert all(torch.equal(each, alone[1]) for each in found)
    assert all(untouched) == (other is plain_ksampler) and untouched
    assert unpatched(models[0]) and torch.equal(plain_ksampler(models[0], encoded), plain_ksampler(inner, encoded))


def doubling(model, names: tuple[str, ...]):
    """A clone of the model with another pack's injection, which doubles what these modules give."""
    model, originals = model.clone(), {}

    def doubled(original: Callable) -> Callable:
        return lambda *arguments, **more: 2 * original(*arguments, **more)

    def inject(patcher):
        for name, module in patcher.model.diffusion_model.named_modules():
            if name.endswith(names):
                originals[module] = module.forward
                module.forward = doubled(module.forward)

    def eject(patcher):
        while originals:
            module, original = originals.popitem()
            module.forward = original
            if getattr(original, "__self__", None) is module:
                del module.forward

    model.set_injections("other", [PatcherInjection(inject, eject)])
    return model


@pytest.mark.parametrize("names", [(".ff", ".ff_in"), (".attn1.to_v",), (".attn1", ".attn2", ".time_stack.0")])
def test_another_packs_injections_act_beside_ours(models, encoded, expected, names):
    other = doubling(models[0], names)
    without = plain_ksampler(models[0], encoded)
    with_other = plain_ksampler(other, encoded)
    result = sample(other, encoded)
    if ".attn1" not in names:
        assert not torch.allclose(result, expected, rtol=1e-2, atol=1e-2)
    assert not torch.allclose(with_other, without, rtol=1e-2, atol=1e-2)
    # The host leaves the other pack's in the UNet for the next run, ours are out of it.
    assert torch.equal(plain_ksampler(other, encoded), with_other)
    assert torch.equal(plain_ksampler(models[0], encoded), without) and unpatched(models[0])
    assert torch.equal(sample(models[0], encoded), expected)
    assert torch.equal(sample(other, encoded), result)


def test_a_pack_that_restores_its_own_forward_only_finds_it(models, encoded, expected):
    """An injection as careful as ours: it must be out of the UNet when the host takes it out."""
    other, replaced = models[0].clone(), []

    def inject(patcher):
        for name, module in patcher.model.diffusion_model.named_modules():
            if ".time_stack." in name and name.endswith(".attn1"):
                original, before = module.forward, module.__dict__.get("forward")
                module.forward = lambda *arguments, original=original, **more: 0.5 * original(*arguments, **more)
                replaced.append((module, module.forward, before))

    def eject(patcher):
        for module, forward, before in replaced:
            if module.__dict__.get("forward") is forward:
                if before is None:
                    del module.forward
                else:
                    module.forward = before
        replaced.clear()

    other.set_injections("other", [PatcherInjection(inject, eject)])
    without, with_other = plain_ksampler(models[0], encoded), plain_ksampler(other, encoded)
    assert not torch.allclose(with_other, without, rtol=1e-2, atol=1e-2)
    for _ in range(2):
        guided(other, encoded)
    assert torch.equal(plain_ksampler(other, encoded), with_other)
    assert torch.equal(plain_ksampler(models[0], encoded), without) and unpatched(models[0])
    assert torch.equal(sample(models[0], encoded), expected)


@pytest.mark.parametrize("where", ["call", "model", "evaluation"])
def test_a_node_that_unloads_the_unet_in_the_middle_of_a_run_changes_nothing(models, encoded, expected, where):
    model, runs = models[0].clone(), []

    def unloading(execute: Callable, *arguments, **more):
        runs.append(where)
        if len(runs) % 2 == 0:
            comfy.model_management.unload_all_models()
        return execute(*arguments, **more)

    if where == "call":
        model.set_model_unet_function_wrapper(
            lambda apply_model, call: unloading(apply_model, call["input"], call["timestep"], **call["c"])
        )
    else:
        kind = WrappersMP.APPLY_MODEL if where == "model" else WrappersMP.CALC_COND_BATCH
        model.add_wrapper_with_key(kind, "unloading", unloading)
    assert torch.equal(sample(model, encoded), expected) and len(runs) > 2
    assert unpatched(models[0])


def test_a_copy_of_a_guider_runs_in_the_others_callback(models, encoded):
    """Both hold the same MODEL; each has the method in the UNet for itself."""
    positive, negative, latent = encoded
    guider = DualDirectionGuider(models[0], positive, negative, GuiderSettings(videos_per_call="1"))
    noise, found = comfy.sample.prepare_noise(latent["samples"], 1), []

    def run(each, callback=None):
        sigmas = torch.tensor([20.0, 2.0, 0.0])
        sampler = comfy.samplers.ksampler("euler")
        return each.sample(noise, latent["samples"], sampler, sigmas, callback=callback, disable_pbar=True, seed=1)

    alone, other = run(guider), copy.copy(guider)
    assert torch.equal(run(guider, lambda *state: found.append(run(other))), alone)
    assert all(torch.equal(each, alone) for each in found) and len(found) >= 2


def test_a_model_changed_after_its_guider_was_made_counts(models, encoded):
    model = models[0].clone()
    positive, negative, latent = encoded
    guider = DualDirectionGuider(model, positive, negative, GuiderSettings())
    model.set_model_sampler_post_cfg_function(lambda arguments: 0 * arguments["denoised"])
    result = guider.sample(
        comfy.sample.prepare_noise(latent["samples"], 1),
        latent["samples"],
        comfy.samplers.ksampler("euler"),
        torch.tensor([20.0, 0.0]),
        disable_pbar=True,
        seed=1,
    )
    assert not result.any()


def test_a_clone_made_during_a_run_is_an_ordinary_model(models, encoded):
    clones, seen = [], []
    sample(watched(models[0], lambda _: clones.append(models[0].model.current_patcher.clone())), encoded, steps=1)
    watching = watched(clones[0], lambda arguments: seen.append(unpatched(models[0])))
    plain_ksampler(watching, encoded)
    assert all(seen) and seen


def test_feed_forward_in_pieces_takes_less_memory(models, monkeypatch):
    monkeypatch.setattr(unet_patches, "TOKENS_AT_ONCE", 100)
    module = models[0].model.diffusion_model.input_blocks[1][1].transformer_blocks[0].ff
    tokens = torch.randn(12, 50, module.net[2].out_features, generator=torch.manual_seed(0))
    peaks, results = [], []
    for forward in (module.forward, unet_patches.in_pieces(module.forward)):
        with torch.no_grad(), counting() as live:
            results.append(forward(tokens))
        peaks.append(live.peak)
    assert torch.allclose(*results, rtol=1e-5, atol=1e-6)
    assert peaks[1] < peaks[0] / 3


def test_feed_forward_in_pieces_gives_the_same_video(models, encoded, expected, monkeypatch):
    monkeypatch.setattr(unet_patches, "TOKENS_AT_ONCE", 100)
    assert torch.allclose(sample(models[0], encoded), expected, rtol=1e-3, atol=2e-3)
