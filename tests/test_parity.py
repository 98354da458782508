"""The real nodes against tensors recorded from the authors' own pipeline, for each order of work.

Tolerances: float32 against float64 already moves the final latents by 5e-3 in the mean; a wrong method moves them by at
least 0.1. INBETWEEN_REFERENCE may name another folder of recordings.
"""

import dataclasses

import pytest
import torch
from generative_inbetweening.nodes import InbetweenLoadBackwardMotion
from generative_inbetweening.sampler import temporal_attention
from generative_inbetweening.sampler.order_of_work import ORDERS
from generative_inbetweening.weights import unet_keys
from generative_inbetweening.weights.backward_motion import is_backward_motion_key, write_backward_motion
from generative_inbetweening.weights.safetensors_files import read_tensors
from reference_cases import (
    REFERENCE,
    backward_motion_folder,
    case_names,
    encode_case,
    folder,
    load_models,
    read_case,
    sample_case,
    use_folders,
)

from nodes import VAEDecode


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    use_folders(tmp_path_factory.mktemp("models"))
    return load_models()


@pytest.fixture(params=case_names())
def case(request):
    return read_case(request.param)


@pytest.fixture
def encoded(case, models, monkeypatch):
    return encode_case(case, *models[1:], monkeypatch)


def differences(result: torch.Tensor, expected: torch.Tensor) -> tuple[float, float]:
    difference = (result.reshape(expected.shape) - expected).abs()
    return difference.mean().item(), difference.max().item()


def test_keyframes_are_encoded_as_the_authors_do(case, encoded):
    positive, negative, latent = encoded
    last = next(value for value in positive[0][1].values() if dataclasses.is_dataclass(value))
    for name, found in (("embed_first", positive[0][0]), ("embed_last", last.embedding)):
        assert differences(found, case.tensors[name])[0] <= 5e-3
    for name, found in (("concat_first", positive[0][1]["concat_latent_image"]), ("concat_last", last.latent)):
        assert differences(found, case.tensors[name])[0] <= 1e-4
    assert not negative[0][0].any() and not negative[0][1]["concat_latent_image"].any()
    assert latent["samples"].shape == case.tensors["final_latents"].shape[1:]


def test_the_hosts_own_image_preparation_fails_the_same_comparison(case, models):
    embedding = models[1].encode_image(case.picture("first")).image_embeds
    assert differences(embedding, case.tensors["embed_first"])[0] > 5e-3


@pytest.mark.parametrize("order", ORDERS)
def test_video_is_the_authors_in_every_order_of_work(case, encoded, models, order):
    result = sample_case(case, models[0], *encoded, order=order)
    for direction in ("forward", "backward"):
        expected = case.tensors[f"step0_{direction}_v_uncond_cond"]
        for half, index in (("negative", 0), ("positive", 1)):
            assert differences(result.first_v[half, direction], expected[index])[0] <= 1e-3
    mean, largest = differences(result.latents, case.tensors["final_latents"])
    print(f"{case.name}, {order}: final latents differ by {mean:.1e} in the mean, {largest:.1e} at most")
    assert mean <= 1e-2 and largest <= 0.1


def test_frames_are_decoded_as_the_authors_do(case, encoded, models):
    if "decoded_frames" not in case.tensors:
        pytest.skip("this recording has no decoded frames")
    frames, = VAEDecode().decode(models[2], {"samples": case.tensors["final_latents"][0] / 0.18215})
    expected = case.tensors["decoded_frames"][0].permute(1, 2, 3, 0)
    assert differences(frames * 2 - 1, expected.clamp(-1, 1))[0] <= 1e-3


@pytest.fixture
def one_case(models, monkeypatch):
    """The recording with the fewest evaluations, encoded: enough to tell a wrong method from the right one."""
    cases = [read_case(name) for name in case_names()]
    case = min(cases, key=lambda case: case.settings["steps"] * (1 + case.settings["inject_steps"]))
    return case, encode_case(case, *models[1:], monkeypatch)


def _assert_another_video(result, case):
    assert differences(result.latents, case.tensors["final_latents"])[0] > 1e-2


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
    turns = {"not rotated": lambda tokens: tokens,
             "one axis only": lambda tokens, seen=[]: tokens if seen.append(0) or len(seen) % 2 == 0
             else reverse(tokens)}
    monkeypatch.setattr(temporal_attention, "reverse_sequences", turns[variant])
    _assert_another_video(sample_case(case, models[0], *encoded), case)


def test_fine_tuned_weights_as_a_replacement_give_another_video(one_case, models):
    case, encoded = one_case
    tuned = read_tensors(REFERENCE / folder("reverse-motion") / "unet" / "diffusion_pytorch_model.safetensors")
    own = read_tensors(REFERENCE / folder("-xt") / "unet" / "diffusion_pytorch_model.safetensors")
    replacement = {name: tuned[key].float() - own[key].float()
                   for key, name in unet_keys.diffusers_to_comfy(tuned).items() if is_backward_motion_key(name)}
    write_backward_motion(backward_motion_folder() / "replacement.safetensors", replacement, {}, True, torch.float32)
    model, = InbetweenLoadBackwardMotion.execute(models[0], "replacement.safetensors", 1.0).args
    _assert_another_video(sample_case(case, model, *encoded), case)
