"""Latents and masks that reach the sampler: what the host's sampler takes is taken, the rest is named before a step."""

import pytest
import torch
from comfy_extras.nodes_custom_sampler import BasicScheduler, KSamplerSelect, RandomNoise, SamplerCustomAdvanced
from generative_inbetweening.nodes import InbetweenDualDirectionGuider, InbetweenDualDirectionKSampler
from helpers.small_model import FRAMES, SETTINGS, encode, plain_ksampler, settings

NAN = float("nan")
ONE_STEP = {"steps": 1, "guidance_min": 1.0, "guidance_max": 1.0}


def run(model, encoded, **changes):
    """The LATENT that the KSampler gives for the empty latent with these changes."""
    positive, negative, latent = encoded
    return InbetweenDualDirectionKSampler.execute(
        model, positive, negative, {**latent, **changes}, 1, "paper", 1.0, settings=settings(**ONE_STEP)
    ).args[0]


@pytest.fixture
def untouched(models):
    """The model; the test fails when the UNet was asked."""
    calls = []
    model = models[0].clone()

    def wrapper(apply_model, arguments):
        calls.append(arguments)
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    model.set_model_unet_function_wrapper(wrapper)
    yield model
    assert not calls


@pytest.mark.parametrize(
    ("samples", "found"),
    [
        (torch.ones(FRAMES, 16, 8, 8), r"\(4, 16, 8, 8\)"),
        (torch.ones(FRAMES, 4, 8), r"\(4, 4, 8\)"),
        (torch.zeros(8), r"\(8,\)"),
        (torch.zeros(()), r"\(\)"),
        (torch.zeros(1, 16, FRAMES, 8, 8), r"\(1, 16, 4, 8, 8\)"),
        (torch.zeros(FRAMES, 4, 0, 8), r"\(4, 4, 0, 8\)"),
        (torch.zeros(FRAMES, 4, 8, 0), r"\(4, 4, 8, 0\)"),
        (torch.zeros(0, 4, 8, 8), r"\(0, 4, 8, 8\)"),
        (torch.zeros(FRAMES, 4, 16, 8), r"\(4, 4, 16, 8\)"),
        (torch.zeros(FRAMES, 4, 8, 9), r"\(4, 4, 8, 9\)"),
        (torch.full((FRAMES, 4, 8, 8), NAN), "NaN or infinity"),
        (torch.full((FRAMES, 4, 8, 8), float("inf")), "NaN or infinity"),
        (torch.zeros(6, 4, 8, 8), "6"),
        *(
            (torch.ones(FRAMES, 4, 8, 8, dtype=dtype), str(dtype))
            for dtype in (torch.complex64, torch.int64, torch.bool, torch.float8_e4m3fn)
        ),
        (torch.ones(FRAMES, 4, 8, 8, device="meta"), "type dict"),
        (torch.ones(FRAMES, 4, 8, 8).to_sparse(), "type dict"),
    ],
)
def test_latents_that_cannot_be_sampled_are_named(untouched, encoded, samples, found):
    with pytest.raises(ValueError, match=rf"^latent_image: expected .*, found .*{found}.*\. .*\.$"):
        run(untouched, encoded, samples=samples)


def test_the_guider_names_them_too(untouched, encoded):
    positive, negative, _ = encoded
    names = ("guidance_min", "guidance_max", "fusion", "strategy", "temporal_attention", "videos_per_call")
    guider = InbetweenDualDirectionGuider.execute(
        untouched, positive, negative, **{name: {**SETTINGS, **ONE_STEP}[name] for name in names}
    ).args[0]
    sigmas = BasicScheduler.execute(untouched, "karras", 2, 1.0).args[0]
    for samples in (torch.ones(FRAMES, 16, 8, 8), torch.zeros(FRAMES, 4, 16, 8), torch.full((FRAMES, 4, 8, 8), NAN)):
        with pytest.raises(ValueError, match="^latent_image: expected .*, found "):
            SamplerCustomAdvanced.execute(
                RandomNoise.execute(1).args[0],
                guider,
                KSamplerSelect.execute("euler").args[0],
                sigmas,
                {"samples": samples},
            )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_latents_of_other_number_formats(models, encoded, dtype):
    expected = run(models[0], encoded)["samples"]
    found = run(models[0], encoded, samples=torch.zeros(FRAMES, 4, 8, 8, dtype=dtype))["samples"]
    assert found.dtype == expected.dtype
    # The noise, too, is drawn in the latents' format by some hosts.
    assert found.isfinite().all() and found.shape == expected.shape


@pytest.mark.parametrize(
    "mask",
    [
        torch.ones(8, 8),
        torch.ones(1, 8, 8),
        torch.ones(64, 64),
        torch.ones(3, 32, 32),
        torch.ones(9, 8, 8),
        torch.ones(FRAMES, 1, 8, 8),
        torch.rand(8, 16).half(),
        torch.ones(2, 8, 8).bool(),
        torch.ones(2, 8, 8).int(),
        torch.ones(2, 8, 8, dtype=torch.float8_e4m3fn),
    ],
    ids=lambda mask: f"{tuple(mask.shape)} {mask.dtype}",
)
def test_masks_act_as_in_the_hosts_sampler(models, encoded, mask):
    """The latent's own frames stay where the mask is 0, whatever the mask's length and size."""
    held = torch.randn(FRAMES, 4, 8, 8, generator=torch.manual_seed(3))
    mask = mask.clone()
    mask[..., : mask.shape[-1] // 2] = 0
    samples = run(models[0], encoded, samples=held, noise_mask=mask)["samples"]
    assert samples.isfinite().all()
    assert torch.allclose(samples[..., :3], held[..., :3], atol=5e-3)
    assert not torch.allclose(samples[..., 5:], held[..., 5:], atol=0.1)


@pytest.mark.parametrize(
    "mask",
    [
        torch.ones(8),
        torch.ones(()),
        torch.zeros(0, 8, 8),
        torch.ones(FRAMES, 0, 8),
        torch.full((8, 8), NAN),
        torch.ones(2, 2, 8, 8, 8),
        "mask",
        torch.full((8, 8), 255.0),
        torch.ones(8, 8, dtype=torch.uint8) * 255,
        torch.full((8, 8), NAN).to(torch.float8_e5m2),
    ],
    ids=lambda mask: str(getattr(mask, "shape", mask)),
)
def test_masks_that_cannot_be_are_named(untouched, encoded, mask):
    with pytest.raises(ValueError, match=r"^latent_image: expected a noise mask .*, found .*\. .*\.$"):
        run(untouched, encoded, noise_mask=mask)


@pytest.mark.parametrize("index", [[0, 1, 2, 3], [3, 2, 1, 0], [7, 7, 7, 7], (5, 0, 1, 9), torch.arange(4)])
def test_batch_index_chooses_the_noise_as_in_the_hosts_sampler(models, encoded, index):
    latent = run(models[0], encoded, batch_index=index)
    assert latent["samples"].isfinite().all() and latent["batch_index"] is index
    same = torch.equal(latent["samples"], run(models[0], encoded)["samples"])
    assert same == (list(index) == [0, 1, 2, 3])


@pytest.mark.parametrize(
    "index", [[0], [0, 1, 2, 3, 4], [0, 1, 2, -1], [0, 1, 2, 10**9], [0, 1, 2, 0.5], ["a"] * 4, 4, [None] * 4]
)
def test_batch_index_that_cannot_be_is_named(untouched, encoded, index):
    with pytest.raises(ValueError, match=r"^latent_image: expected a batch_index .*, found .*\. .*\.$"):
        run(untouched, encoded, batch_index=index)


def test_what_else_a_latent_carries_goes_on(models, encoded):
    carried = run(models[0], encoded, title="ours", noise_mask=torch.ones(8, 8))
    assert carried["title"] == "ours" and carried["noise_mask"].shape == (8, 8)


def test_empty_latents_of_other_models_are_taken_as_the_hosts_sampler_takes_them(models, encoded):
    sixteen = run(models[0], encoded, samples=torch.zeros(FRAMES, 16, 8, 8))["samples"]
    assert torch.equal(sixteen, run(models[0], encoded)["samples"])


def test_embeddings_of_another_clip_are_named(untouched, encoded):
    positive, negative, latent = encoded
    wide = [[torch.zeros(1, 1, positive[0][0].shape[-1] + 8), positive[0][1]]]
    with pytest.raises(ValueError, match=r"^positive: expected .*embedding.*, found .*clip_vision.*\."):
        run(untouched, (wide, negative, latent))
    with pytest.raises(ValueError, match=r"^negative: expected .*embedding"):
        run(untouched, (positive, wide, latent))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fps", NAN),
        ("fps", "7"),
        ("motion_bucket_id", float("inf")),
        ("augmentation_level", None),
        ("strength", NAN),
        ("concat_latent_image", None),
        ("concat_latent_image", torch.full((1, 4, 8, 8), NAN)),
        ("concat_latent_image", torch.zeros(4, 8, 8)),
        ("inbetween_last_keyframe", "picture"),
    ],
    ids=lambda value: str(getattr(value, "shape", value)),
)
def test_conditioning_that_another_node_has_broken_is_named(untouched, encoded, key, value):
    for index, name in enumerate(("positive", "negative")):
        broken = list(encoded)
        ((embedding, options),) = encoded[index]
        broken[index] = [[embedding, {**options, key: value}]]
        with pytest.raises(ValueError, match=f"^{name}: expected .*, found .*"):
            run(untouched, broken)


@pytest.mark.parametrize(
    "change", [lambda embedding: embedding * NAN, lambda embedding: embedding[0], lambda embedding: embedding[:, :0]]
)
def test_embeddings_that_another_node_has_broken_are_named(untouched, encoded, change):
    positive, negative, latent = encoded
    with pytest.raises(ValueError, match="^positive: expected the embeddings"):
        run(untouched, ([[change(positive[0][0]), positive[0][1]]], negative, latent))


def test_nan_from_the_model_is_told(models, encoded, caplog):
    """The host's sampler gives such latents, too; a line says why the frames will be black."""
    model = models[0].clone()
    model.set_model_unet_function_wrapper(
        lambda apply_model, arguments: NAN * apply_model(arguments["input"], arguments["timestep"], **arguments["c"])
    )
    assert run(model, encoded)["samples"].isnan().all()
    assert [record for record in caplog.records if "NaN" in record.getMessage()]
    caplog.clear()
    run(models[0], encoded)
    assert not caplog.records
    assert plain_ksampler(models[0], encode(models)).isfinite().all()
