"""The real nodes against tensors recorded from the authors' own pipeline, for each `videos_per_call`.

A result is right when it is as close to the authors' run in float64 as their own run in float32 is, up to a small
factor; wrong variants must fail the same comparison. INBETWEEN_REFERENCE may name another folder of recordings; without
a run in float64 there, fixed limits serve.
"""

import dataclasses
import itertools

import folder_paths
import pytest
import torch
from comfy.model_sampling import ModelSamplingContinuousEDM
from generative_inbetweening.nodes import InbetweenLoadBackwardMotion
from generative_inbetweening.sampler.method import attention as temporal_attention
from generative_inbetweening.sampler.settings import VIDEOS_PER_CALL
from generative_inbetweening.weights.backward_motion import is_backward_motion_key, write_backward_motion
from generative_inbetweening.weights.files import read_tensors
from generative_inbetweening.weights.keys import unet as unet_keys
from helpers.model_folders import backward_motion_folder, folder, use_folders
from helpers.reference_cases import case_names, encode_case, read_case, recorded_models, sample_case, schedule
from helpers.small_model import load_models

from nodes import VAEDecode

# Two float32 runs of the same sum in another order differ from the exact one by about the same, not by exactly it.
NOISE_FLOORS = 4
# Mean and largest difference where there is no run in float64.
FIXED_LIMITS = {
    "embed": (5e-3, 1.0),
    "concat": (1e-4, 1.0),
    "step0": (1e-3, 1.0),
    "final": (1e-2, 0.1),
    "decoded": (1e-3, 1.0),
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The diffusers folders that the recordings were made with."""
    diffusers = recorded_models(tmp_path_factory.mktemp("recorded"))
    use_folders(tmp_path_factory.mktemp("models"), diffusers)
    yield diffusers
    folder_paths.folder_names_and_paths["diffusers"][0].remove(str(diffusers))


@pytest.fixture(scope="module")
def models(recorded):
    return load_models()


@pytest.fixture(scope="module", params=case_names())
def case(request):
    return read_case(request.param)


@pytest.fixture(scope="module")
def encoded(case, models):
    with pytest.MonkeyPatch.context() as patch:
        return encode_case(case, *models[1:], patch)


def differences(result: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Mean and largest absolute difference of each item, `[2, items]`."""
    difference = (result.reshape(expected.shape) - expected).abs().flatten(1)
    return torch.stack([difference.mean(1), difference.amax(1)])


def excess(case, name: str, found: torch.Tensor) -> float:
    """By how many times what is allowed `found` differs from the recorded tensor: up to 1 is right."""
    recorded = case.tensors[name]
    exact = case.tensors.get(f"{name}_float64")
    if exact is None:
        limits = torch.tensor(FIXED_LIMITS[name.split("_")[0]])[:, None]
        return (differences(found, recorded) / limits).max().item()
    return (differences(found, exact) / (NOISE_FLOORS * differences(recorded, exact))).max().item()


def assert_the_authors(case, **found: torch.Tensor) -> None:
    worst = {name: excess(case, name, tensor) for name, tensor in found.items()}
    print(case.name, *(f"{name}: {value:.2g}" for name, value in worst.items()))
    assert max(worst.values()) <= 1


def test_keyframes_are_encoded_as_the_authors_do(case, encoded):
    positive, negative, latent = encoded
    last = next(value for value in positive[0][1].values() if dataclasses.is_dataclass(value))
    assert_the_authors(
        case,
        embed_first=positive[0][0],
        embed_last=last.embedding,
        concat_first=positive[0][1]["concat_latent_image"],
        concat_last=last.latent,
    )
    assert not negative[0][0].any() and not negative[0][1]["concat_latent_image"].any()
    assert latent["samples"].shape == case.tensors["final_latents"].shape[1:]


def test_the_hosts_own_image_preparation_fails_the_same_comparison(case, models):
    picture = case.picture("first")
    if picture.shape[1] == picture.shape[2]:
        pytest.skip("the host crops the centre, which is the whole of a square picture")
    assert excess(case, "embed_first", models[1].encode_image(picture).image_embeds) > 1


def test_the_hosts_schedule_is_the_authors(case, models):
    # Both round to float32, each in its own order.
    assert torch.allclose(schedule(case, models[0]), case.tensors["sigmas"], rtol=2e-6, atol=0)


@pytest.mark.parametrize(
    "videos", [videos if videos == "2" else pytest.param(videos, marks=pytest.mark.slow) for videos in VIDEOS_PER_CALL]
)
def test_video_is_the_authors_in_every_videos_per_call(case, encoded, models, videos):
    found = sample_case(case, models[0], *encoded, videos_per_call=videos).tensors
    assert_the_authors(case, **{name: tensor for name, tensor in found.items() if name in case.tensors})


def test_frames_are_decoded_as_the_authors_do(case, models):
    if "decoded_frames" not in case.tensors:
        pytest.skip("this recording has no decoded frames")
    (frames,) = VAEDecode().decode(models[2], {"samples": case.tensors["final_latents"][0] / 0.18215})
    shown = {name: tensor.clamp(-1, 1) for name, tensor in case.tensors.items() if name.startswith("decoded_frames")}
    assert_the_authors(dataclasses.replace(case, tensors=shown), decoded_frames=(frames * 2 - 1).movedim(-1, 0)[None])


@pytest.fixture(scope="module")
def one_case(models):
    """The recording with the fewest evaluations, encoded: enough to tell a wrong method from the right one."""
    cases = [read_case(name) for name in case_names()]
    case = min(cases, key=lambda case: case.settings["steps"] * (1 + case.settings["inject_steps"]))
    with pytest.MonkeyPatch.context() as patch:
        return case, encode_case(case, *models[1:], patch)


@pytest.fixture
def noise_floor(one_case):
    if "final_latents_float64" not in one_case[0].tensors:
        pytest.skip("without a run in float64 the limits are wider than what the time embedding may do")


def _assert_another_video(result, case):
    by = excess(case, "final_latents", result.tensors["final_latents"])
    print(f"{case.name}: {by:.0f} times what is allowed")
    assert by > 1


def test_without_fine_tuning_the_video_is_another(one_case, models):
    case, encoded = one_case
    _assert_another_video(sample_case(case, load_models("weak", strength=0.0)[0], *encoded), case)


def test_with_own_maps_the_video_is_another(one_case, models):
    case, encoded = one_case
    _assert_another_video(sample_case(case, models[0], *encoded, temporal_attention="own"), case)


@pytest.mark.parametrize("variant", ["not rotated", "one axis only"])
def test_with_maps_turned_wrongly_the_video_is_another(one_case, models, monkeypatch, variant):
    case, encoded = one_case
    # P·v: neither axis reversed. P·reverse(v): the keys' axis only.
    reverse = temporal_attention.reverse_sequences
    # Of an attention's two turns none, or the first only.
    turned = {"not rotated": itertools.repeat(False), "one axis only": itertools.cycle((True, False))}[variant]
    monkeypatch.setattr(
        temporal_attention, "reverse_sequences", lambda tokens: reverse(tokens) if next(turned) else tokens
    )
    _assert_another_video(sample_case(case, models[0], *encoded), case)


def test_fine_tuned_weights_as_a_replacement_give_another_video(one_case, models, recorded):
    case, encoded = one_case
    tuned, own = (
        read_tensors(recorded / folder(name) / "unet" / "diffusion_pytorch_model.safetensors")
        for name in ("reverse-motion", "-xt")
    )
    replacement = {
        name: tuned[key].float() - own[key].float()
        for key, name in unet_keys.diffusers_to_comfy(tuned).items()
        if is_backward_motion_key(name)
    }
    write_backward_motion(backward_motion_folder() / "replacement.safetensors", replacement, {}, True, torch.float32)
    (model,) = InbetweenLoadBackwardMotion.execute(models[0], "replacement.safetensors", 1.0).args
    _assert_another_video(sample_case(case, model, *encoded), case)


@pytest.mark.slow
@pytest.mark.parametrize(("setting", "value"), [("fps", 14), ("motion_bucket_id", 60), ("augmentation_level", 0.1)])
def test_with_another_micro_conditioning_the_video_is_another(one_case, models, noise_floor, setting, value):
    case, (positive, negative, latent) = one_case
    assert positive[0][1][setting] != value
    others = (
        [[embedding, {**options, setting: value}] for embedding, options in conditioning]
        for conditioning in (positive, negative)
    )
    _assert_another_video(sample_case(case, models[0], *others, latent), case)


def test_told_the_noise_level_of_the_next_step_the_video_is_another(one_case, models, noise_floor, monkeypatch):
    case, encoded = one_case
    sigmas, timestep = case.tensors["sigmas"], ModelSamplingContinuousEDM.timestep

    def of_the_next(self, sigma):
        step = (sigmas - sigma.flatten()[0]).abs().argmin()
        # The last step leads to 0, whose time would be −∞.
        return timestep(self, sigmas[min(step + 1, len(sigmas) - 2)].expand_as(sigma))

    monkeypatch.setattr(ModelSamplingContinuousEDM, "timestep", of_the_next)
    _assert_another_video(sample_case(case, models[0], *encoded), case)


def test_on_a_schedule_of_one_more_step_the_video_is_another(one_case, models):
    case, encoded = one_case
    longer = dataclasses.replace(case, settings={**case.settings, "steps": case.settings["steps"] + 1})
    _assert_another_video(sample_case(case, models[0], *encoded, sigmas=schedule(longer, models[0])[1:]), case)
