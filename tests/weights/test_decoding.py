"""The temporal decoder in pieces: the frames of the whole clip, whatever memory there is."""

import copy

import comfy.model_management
import comfy.sd
import pytest
import torch
from generative_inbetweening.common.live_bytes import LiveBytes
from generative_inbetweening.weights.decoding import decode_in_chunks, kept_bytes
from helpers.small_model import encode, load

from nodes import VAEDecode

FRAMES, HEIGHT, WIDTH = 5, 3, 4
ROUNDING = {"rtol": 1e-4, "atol": 2e-5}
# As CUDA and torch, newer torch, and Apple's GPUs say it.
NO_MEMORY = [
    comfy.model_management.OOM_EXCEPTION("out of memory"),
    getattr(torch, "AcceleratorError", RuntimeError)("CUDA error: out of memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.87 GB)"),
]


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return load(tmp_path_factory.mktemp("models"))[2]


@pytest.fixture(scope="module")
def latents():
    return 4 * torch.randn(FRAMES, 4, HEIGHT, WIDTH, generator=torch.manual_seed(0))


@pytest.fixture(scope="module")
def whole(vae, latents):
    return VAEDecode().decode(vae, {"samples": latents})[0]


def free_frames(vae, latents, frames: float, monkeypatch) -> None:
    """Makes the host believe that the device has room for so many frames."""
    bytes_of_one = vae.memory_used_decode(latents.shape, vae.vae_dtype)
    free = comfy.model_management.get_free_memory()
    monkeypatch.setattr(vae, "memory_used_decode", lambda *_: free / frames)
    assert bytes_of_one < free / FRAMES


@pytest.mark.parametrize("at_once", [1, 2, FRAMES])
def test_pieces_give_the_whole_clip(vae, latents, at_once):
    decoder = vae.first_stage_model.decoder
    kept = latents.clone()
    with torch.no_grad():
        expected = decoder(latents)
    assert torch.allclose(decode_in_chunks(decoder, latents, latents.device, at_once), expected, **ROUNDING)
    assert torch.equal(latents, kept)


def test_vae_decode_gives_the_whole_clip_where_memory_is_short(vae, latents, whole, monkeypatch):
    free_frames(vae, latents, 2.5, monkeypatch)
    (pieces,) = VAEDecode().decode(vae, {"samples": latents})
    assert torch.allclose(pieces, whole, **ROUNDING)
    # What the host's own VAE does there.
    (host,) = VAEDecode().decode(as_host(vae), {"samples": latents})
    assert (host - whole).abs().max() > 100 * (pieces - whole).abs().max()


def as_host(vae):
    """The same VAE with the host's own decoding."""
    plain = comfy.sd.VAE.__new__(comfy.sd.VAE)
    plain.__dict__.update(vae.__dict__)
    return plain


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("room", [0, 1, 2])
def test_running_out_of_memory_takes_smaller_pieces(vae, latents, whole, room, error, monkeypatch):
    decoder, seen = vae.first_stage_model.decoder, []
    convolution = decoder.conv_in.forward

    def too_large(frames):
        seen.append(len(frames))
        if len(frames) > room:
            raise error
        return convolution(frames)

    monkeypatch.setattr(decoder.conv_in, "forward", too_large)
    if not room:
        with pytest.raises(type(error), match="out of memory"):
            VAEDecode().decode(vae, {"samples": latents})
        assert seen[-1] == 1
    else:
        (frames,) = VAEDecode().decode(vae, {"samples": latents})
        assert torch.allclose(frames, whole, **ROUNDING) and max(seen) == FRAMES


def test_an_error_of_another_kind_is_not_tried_again(vae, latents, monkeypatch):
    seen = []
    monkeypatch.setattr(vae.first_stage_model.decoder.conv_in, "forward", lambda frames: seen.append(1) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        VAEDecode().decode(vae, {"samples": latents})
    assert len(seen) == 1


def test_what_the_patcher_can_give_back_counts_as_free(vae, latents, whole, monkeypatch):
    free_frames(vae, latents, 1.5, monkeypatch)
    free = comfy.model_management.get_free_memory()
    monkeypatch.setattr(vae.patcher, "get_free_memory", lambda device: 10 * free, raising=False)
    monkeypatch.setattr(vae, "_decode_in_chunks", None)
    assert torch.equal(VAEDecode().decode(vae, {"samples": latents})[0], whole)


def test_frames_are_held_once(vae, latents, monkeypatch):
    pixels = torch.rand(8, 3, 64, 64) * 2 - 1
    expected = vae.process_output(pixels.clone()).movedim(1, -1)
    monkeypatch.setattr(vae, "_decode_whole", lambda _: pixels)
    weights = [*vae.first_stage_model.parameters(), *vae.first_stage_model.buffers()]
    with LiveBytes([*weights, pixels]) as live:
        frames = vae.decode(latents)
    assert torch.equal(frames, expected) and live.peak < pixels.nbytes / 2


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: type(error).__name__)
def test_keyframes_are_encoded_where_memory_is_short(models, encoded, error, monkeypatch):
    """The picture in tiles, as the host has them; the embedding once more on an emptied device."""
    failures = {"picture": 0, "embedding": 0}

    def failing_once(what, call):
        def attempt(*arguments, **options):
            failures[what] += 1
            if failures[what] == 1:
                raise error
            return call(*arguments, **options)

        return attempt

    _, clip_vision, vae = models
    monkeypatch.setattr(vae.first_stage_model, "encode", failing_once("picture", vae.first_stage_model.encode))
    monkeypatch.setattr(clip_vision.model, "forward", failing_once("embedding", clip_vision.model.forward))
    with torch.inference_mode():
        positive = encode(models)[0]
    assert torch.allclose(positive[0][0], encoded[0][0][0], **ROUNDING)
    found, wanted = (each[0][1]["concat_latent_image"] for each in (positive, encoded[0]))
    assert torch.allclose(found, wanted, atol=0.05) and failures["picture"] > 2 and failures["embedding"] == 3


def test_the_host_decodes_when_ordinary_memory_is_short_too(vae, latents, monkeypatch, caplog):
    free_frames(vae, latents, 2.5, monkeypatch)
    monkeypatch.setattr("generative_inbetweening.weights.decoding.kept_bytes", lambda *_: 2**60)
    (frames,) = VAEDecode().decode(vae, {"samples": latents})
    assert torch.equal(frames, VAEDecode().decode(as_host(vae), {"samples": latents})[0])
    assert "each as a clip of its own" in caplog.text


def test_interrupt_while_decoding(vae, latents, whole, monkeypatch):
    free_frames(vae, latents, 2.5, monkeypatch)
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        VAEDecode().decode(vae, {"samples": latents})
    assert torch.allclose(VAEDecode().decode(vae, {"samples": latents})[0], whole, **ROUNDING)


def test_half_precision_rounds_no_more_than_in_one_go(vae, latents):
    decoder = copy.deepcopy(vae.first_stage_model.decoder).bfloat16()
    with torch.no_grad():
        exact = vae.first_stage_model.decoder(latents[:3])
        whole = decoder(latents[:3].bfloat16())
    pieces = decode_in_chunks(decoder, latents[:3].bfloat16(), latents.device, 2)
    assert pieces.dtype == torch.bfloat16
    assert (pieces - exact).abs().mean() <= 1.2 * (whole - exact).abs().mean()


def test_pieces_hold_what_is_kept_and_little_more(vae, latents):
    decoder = vae.first_stage_model.decoder
    weights = [*decoder.parameters(), *decoder.buffers(), latents]
    with torch.no_grad(), LiveBytes(weights) as whole:
        decoder(latents)
    with LiveBytes(weights) as pieces:
        decode_in_chunks(decoder, latents, latents.device, 1)
    kept = kept_bytes(decoder, FRAMES, 8 * HEIGHT, 8 * WIDTH, torch.float32)
    assert kept <= pieces.peak <= kept + 1.2 * whole.peak / FRAMES
