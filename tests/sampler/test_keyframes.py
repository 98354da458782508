"""Pictures as they come: in every number format, beyond their range, and encoders of other models."""

import comfy.cli_args
import comfy.model_management
import comfy.sd
import pytest
import torch
from comfy.taesd.taesd import TAESD
from generative_inbetweening.nodes import InbetweenContactSheet
from generative_inbetweening.sampler import keyframes
from helpers.pictures import WIDE, clip_of, encoded_pictures, initialised
from helpers.small_model import encode, pictures, sample

FORMATS = [torch.float16, torch.bfloat16, torch.float64]


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_keyframes_of_other_number_formats(models, dtype, fit):
    first, last = WIDE.to(dtype), pictures()[1].to(dtype)
    # A view into other memory, as crops and flips are.
    turned = last.transpose(1, 2).contiguous().transpose(1, 2)
    expected = encoded_pictures(models, first.float(), last.float(), fit)
    found = encoded_pictures(models, first, turned, fit)
    assert torch.equal(found[0][0][0], expected[0][0][0])
    options, wanted = found[0][0][1], expected[0][0][1]
    assert torch.equal(options["concat_latent_image"], wanted["concat_latent_image"])
    assert torch.equal(options["inbetween_last_keyframe"].latent, wanted["inbetween_last_keyframe"].latent)
    assert torch.equal(options["inbetween_last_keyframe"].embedding, wanted["inbetween_last_keyframe"].embedding)


@pytest.mark.parametrize(
    ("picture", "found"),
    [
        (WIDE * 255, "0.* to 25"),
        (WIDE * 1e30, "e.29"),
        (WIDE * 2 - 1, "-"),
        ((WIDE * 255).byte(), "to 25"),
        (WIDE * float("nan"), "NaN or infinity"),
        (WIDE / 0, "NaN or infinity"),
        (WIDE.to(torch.complex64), "complex"),
    ],
)
def test_colours_that_cannot_be_are_named(models, picture, found):
    good = pictures()[0]
    with pytest.raises(ValueError, match=rf"^first_keyframe: expected colours from 0 to 1, found .*{found}.*\. .*\.$"):
        encoded_pictures(models, picture, good)
    with pytest.raises(ValueError, match="^last_keyframe: expected colours from 0 to 1"):
        encoded_pictures(models, good, picture)


def test_an_overshoot_of_resizing_is_cut_off():
    assert torch.equal(keyframes.one_picture(WIDE * 1.5 - 0.2, "keyframe"), (WIDE * 1.5 - 0.2).clamp(0, 1))


def taesd(channels: int) -> comfy.sd.VAE:
    """One of the host's VAEs with latents of that many channels, with random weights."""
    vae = comfy.sd.VAE(sd=TAESD(latent_channels=channels).state_dict())
    return initialised(vae.first_stage_model) and vae


def test_vae_of_another_model_is_named(models):
    with pytest.raises(ValueError, match=r"^vae: expected the VAE of Stable Video Diffusion.*\(1, 16, 8, 8\).*\.$"):
        encoded_pictures(models, *pictures(), vae=taesd(16))


def test_a_vae_of_the_same_latents_is_taken(models):
    positive, _, _ = encoded_pictures(models, *pictures(), vae=taesd(4))
    assert positive[0][1]["concat_latent_image"].shape == (1, 4, 8, 8)


def test_clip_of_another_model_is_named(models, tmp_path):
    positive, negative, latent = encoded_pictures(models, *pictures(), clip_vision=clip_of(tmp_path))
    with pytest.raises(ValueError, match=r"^positive: expected CLIP image embeddings .*, found 24.*clip_vision.*\.$"):
        sample(models[0], (positive, negative, latent))
    dino = clip_of(tmp_path, model_type="dinov2", use_swiglu_ffn=False)
    with pytest.raises(ValueError, match=r"^clip_vision: expected the CLIP image encoder .*, found .*ino.*\.$"):
        encoded_pictures(models, *pictures(), clip_vision=dino)


def test_nan_from_an_encoder_is_named(models, tmp_path):
    broken = clip_of(tmp_path)
    torch.nn.init.constant_(next(broken.model.parameters()), float("nan"))
    with pytest.raises(ValueError, match="^clip_vision: expected numbers, found NaN"):
        encoded_pictures(models, *pictures(), clip_vision=broken)
    vae = taesd(4)
    for parameter in vae.first_stage_model.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    with pytest.raises(ValueError, match="^vae: expected numbers, found NaN"):
        encoded_pictures(models, *pictures(), vae=vae)


@pytest.mark.skipif(not hasattr(comfy.model_management, "intermediate_dtype"), reason="a newer ComfyUI has the option")
def test_half_precision_between_nodes(models, monkeypatch):
    """With --fp16-intermediates our nodes hand on half precision as the host's do, and take it."""
    monkeypatch.setattr(comfy.cli_args.args, "fp16_intermediates", True)
    positive, negative, latent = encode(models)
    assert latent["samples"].dtype == torch.float16
    result = sample(models[0], (positive, negative, latent), steps=1)
    assert result.dtype == torch.float16 and result.isfinite().all()
    sheet = InbetweenContactSheet.execute(WIDE.half().expand(3, -1, -1, -1), 0, "0, -1").args[0]
    assert sheet.dtype == torch.float16


@pytest.mark.parametrize(("fit", "corner", "middle"), [("crop", 1.0, 0.5), ("stretch", 0.0, 0.5), ("pad", 0.0, 0.5)])
def test_fits(fit, corner, middle):
    # Black, white and grey thirds: the crop of a wide picture starts within the white.
    picture = torch.full((1, 40, 120, 3), 0.5)
    picture[:, :, :20], picture[:, :, 20:50] = 0.0, 1.0
    fitted = keyframes.fit_picture(picture, 40, 40, fit)
    assert fitted.shape == (1, 40, 40, 3)
    assert fitted[0, 1, 1, 0].item() == pytest.approx(corner, abs=0.02)
    assert fitted[0, 20, 20, 0].item() == pytest.approx(middle, abs=0.05)


def test_picture_of_the_right_size_is_not_touched():
    picture = torch.rand(1, 64, 128, 3)
    assert keyframes.fit_picture(picture, 128, 64, "crop") is picture


def test_augmentation_noise_is_added_in_minus_one_to_one():
    picture, noise = torch.rand(1, 8, 8, 3), torch.randn(1, 3, 8, 8)
    noisy = keyframes.add_augmentation_noise(picture, noise, 0.1)
    expected = (picture * 2 - 1).movedim(-1, 1) + 0.1 * noise
    assert torch.allclose((noisy * 2 - 1).movedim(-1, 1), expected, atol=1e-6)


def test_each_keyframe_has_noise_of_its_own_only_where_it_is_asked_for(models):
    picture = pictures()[0]
    size = {"width": 64, "height": 64, "frames": 4, "fps": 7, "motion_bucket": 127, "seed": 0, "fit": "crop"}

    def noise(separate_noise: bool):
        """What augmentation does to the latents of the first and the last keyframe, both the same picture."""
        positive, *_ = keyframes.encode_keyframes(
            *models[1:], picture, picture, noise_augmentation=0.5, separate_noise=separate_noise, **size
        )
        clean = positive[0][1]["inbetween_clean_keyframes"]
        assert torch.equal(clean.first, encode(models)[0][0][1]["concat_latent_image"])
        return positive[0][1]["concat_latent_image"] - clean.first, _last(positive) - clean.last

    (first, last), (own_first, own_last) = noise(False), noise(True)
    assert first.any() and torch.equal(first, last)
    assert torch.equal(own_first, first) and not torch.allclose(own_last, first, atol=1e-3)


def _last(positive) -> torch.Tensor:
    return positive[0][1]["inbetween_last_keyframe"].latent
