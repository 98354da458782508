"""The temporal decoder in pieces: the frames of the whole clip, whatever memory there is."""

import copy

import comfy.model_management
import comfy.sd
import pytest
import torch
from generative_inbetweening.training.memory import LiveBytes
from generative_inbetweening.weights.chunked_decoder import decode_in_chunks, kept_bytes
from small_model import load

from nodes import VAEDecode

FRAMES, HEIGHT, WIDTH = 5, 3, 4
ROUNDING = {"rtol": 1e-4, "atol": 2e-5}


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
    pieces, = VAEDecode().decode(vae, {"samples": latents})
    assert torch.allclose(pieces, whole, **ROUNDING)
    # What the host's own VAE does there.
    host, = VAEDecode().decode(as_host(vae), {"samples": latents})
    assert (host - whole).abs().max() > 100 * (pieces - whole).abs().max()


def as_host(vae):
    """The same VAE with the host's own decoding."""
    plain = comfy.sd.VAE.__new__(comfy.sd.VAE)
    plain.__dict__.update(vae.__dict__)
    return plain


@pytest.mark.parametrize("room", [0, 1, 2])
def test_running_out_of_memory_takes_smaller_pieces(vae, latents, whole, room, monkeypatch):
    decoder, seen = vae.first_stage_model.decoder, []
    convolution = decoder.conv_in.forward

    def too_large(frames):
        seen.append(len(frames))
        if len(frames) > room:
            raise comfy.model_management.OOM_EXCEPTION("out of memory")
        return convolution(frames)

    monkeypatch.setattr(decoder.conv_in, "forward", too_large)
    if not room:
        with pytest.raises(comfy.model_management.OOM_EXCEPTION):
            VAEDecode().decode(vae, {"samples": latents})
        assert seen[-1] == 1
    else:
        frames, = VAEDecode().decode(vae, {"samples": latents})
        assert torch.allclose(frames, whole, **ROUNDING) and max(seen) == FRAMES


def test_the_host_decodes_when_ordinary_memory_is_short_too(vae, latents, monkeypatch, caplog):
    free_frames(vae, latents, 2.5, monkeypatch)
    monkeypatch.setattr("generative_inbetweening.weights.clip_vae.kept_bytes", lambda *_: 2 ** 60)
    frames, = VAEDecode().decode(vae, {"samples": latents})
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
