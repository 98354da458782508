"""A memory limit below one video: an error before the first step that names the size that would fit."""

import comfy.model_management
import pytest
import torch
from generative_inbetweening.sampler import memory_limit
from generative_inbetweening.sampler.memory_limit import check_one_video_fits, largest_size, least_bytes
from helpers.small_model import FRAMES, SIZE, calling, counting, sample, unpatched


def test_a_limit_below_one_video_is_an_error_before_the_first_step(models, encoded, monkeypatch):
    calls = []
    monkeypatch.setattr(memory_limit, "memory_limit", lambda device: 1000.0)
    with pytest.raises(ValueError, match=rf"{FRAMES} frames at {SIZE}x{SIZE}.*No size fits with {FRAMES} frames"):
        sample(calling(models[0], calls.append), encoded)
    assert not calls and unpatched(models[0])


@pytest.mark.slow
def test_nothing_is_refused_that_would_have_worked(models, encoded, expected, monkeypatch):
    """The limit that is asked for is below what one video takes by the count of every tensor."""
    with counting() as live:
        sample(models[0], encoded, videos_per_call="1", steps=1)
    unet = models[0].model.diffusion_model
    needed = least_bytes(FRAMES, SIZE // 8, SIZE // 8, unet.model_channels, torch.float32)
    assert live.peak / 5 < needed < live.peak
    monkeypatch.setattr(memory_limit, "memory_limit", lambda device: needed)
    assert torch.equal(sample(models[0], encoded), expected)


def test_the_error_names_the_largest_size_that_fits(models, monkeypatch):
    shape = torch.Size([25, 4, 72, 128])
    channels = models[0].model.diffusion_model.model_channels
    fits = least_bytes(25, 40, 72, channels, torch.float32)
    monkeypatch.setattr(memory_limit, "memory_limit", lambda device: fits + 1)
    with pytest.raises(ValueError, match="25 frames at 1024x576.*largest size that fits with 25 frames is 576x320"):
        check_one_video_fits(models[0], shape)
    check_one_video_fits(models[0], torch.Size([25, 4, 40, 72]))


@pytest.mark.parametrize("positions", [64, 500, 3000, 9215, 10**6])
def test_the_largest_size_is_within_the_limit_and_the_next_is_not(positions):
    width, height = largest_size(positions, 72, 128)
    assert width % 64 == height % 64 == 0 and width * height // 64 <= positions
    wider = width // 8 + 8
    assert wider > 128 or wider * max(8, round(wider * 72 / 128 / 8) * 8) > positions


def test_devices_that_swap_have_no_limit():
    assert memory_limit.memory_limit(torch.device("cpu")) is None
    assert memory_limit.memory_limit(torch.device("mps")) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_torchs_own_limit_counts():
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(0.5)
    try:
        assert memory_limit.memory_limit(torch.device("cuda", 0)) == pytest.approx(total / 2)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_no_videos_per_call_fits(models, encoded, expected, caplog):
    def too_large(videos):
        raise comfy.model_management.OOM_EXCEPTION("out of memory")

    with pytest.raises(comfy.model_management.OOM_EXCEPTION):
        sample(calling(models[0], too_large), encoded, videos_per_call="4")
    # A remark, which the node shows, too: the error is torch's own.
    (shown,) = [record.getMessage() for record in caplog.records if record.name.endswith("common.remarks")]
    assert "Not even one video" in shown and f"{FRAMES} frames at {SIZE}x{SIZE}" in shown
    assert unpatched(models[0])
    assert torch.equal(sample(models[0], encoded), expected)
