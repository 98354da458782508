"""Memory while sampling: what is chosen, what happens when it runs out, and what is left on the device."""

import gc
import logging

import comfy.model_management
import pytest
import torch
from generative_inbetweening.sampler import feed_forward
from generative_inbetweening.sampler.settings import VIDEOS_PER_CALL
from helpers.small_model import calling, counting, sample, unpatched


def test_the_videos_per_call_is_logged_once(models, encoded, caplog):
    with caplog.at_level(logging.INFO):
        sample(models[0], encoded, videos_per_call="auto")
    lines = [line for line in caplog.messages if "GiB free" in line]
    assert len(lines) == 1 and any(f"{order} video(s) a call" in lines[0] for order in VIDEOS_PER_CALL)


@pytest.mark.parametrize("interrupted_at", [1, 2])
def test_interrupt_in_the_middle_of_a_fallback(models, encoded, expected, interrupted_at):
    calls = []

    def too_large(videos):
        calls.append(videos)
        if len(calls) == interrupted_at:
            comfy.model_management.interrupt_current_processing()
        if videos > 1:
            raise comfy.model_management.OOM_EXCEPTION("out of memory")

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(calling(models[0], too_large), encoded, videos_per_call="4")
    assert calls == [4, 2][:interrupted_at]
    assert unpatched(models[0])
    assert not comfy.model_management.processing_interrupted()
    assert torch.equal(sample(models[0], encoded), expected)


def test_feed_forward_in_pieces_takes_less_memory(models, monkeypatch):
    monkeypatch.setattr(feed_forward, "TOKENS_AT_ONCE", 100)
    module = models[0].model.diffusion_model.input_blocks[1][1].transformer_blocks[0].ff
    tokens = torch.randn(12, 50, module.net[2].out_features, generator=torch.manual_seed(0))
    peaks, results = [], []
    for forward in (module.forward, feed_forward.in_pieces(module.forward)):
        with torch.no_grad(), counting() as live:
            results.append(forward(tokens))
        peaks.append(live.peak)
    assert torch.allclose(*results, rtol=1e-5, atol=1e-6)
    assert peaks[1] < peaks[0] / 3


def test_feed_forward_in_pieces_gives_the_same_video(models, encoded, expected, monkeypatch):
    monkeypatch.setattr(feed_forward, "TOKENS_AT_ONCE", 100)
    assert torch.allclose(sample(models[0], encoded), expected, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("ends", ["well", "out of memory", "interrupted"])
def test_nothing_stays_in_memory_after_a_run(models, encoded, expected, ends):
    def look(videos):
        if ends == "interrupted":
            comfy.model_management.interrupt_current_processing()
        if ends == "out of memory":
            raise comfy.model_management.OOM_EXCEPTION("out of memory")

    model, result = calling(models[0], look), None
    with counting() as live:
        try:
            result = sample(model, encoded, videos_per_call="1")
        except (comfy.model_management.OOM_EXCEPTION, comfy.model_management.InterruptProcessingException):
            assert ends != "well"
        gc.collect()
        assert live.now == (result.nbytes if ends == "well" else 0)
