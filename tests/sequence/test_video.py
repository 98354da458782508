"""The video of a sequence: refused where it does not fit into memory, put together without copies."""

import comfy.model_management
import pytest
import torch
from generative_inbetweening.sequence.video import Video
from helpers.sequences import keyframes, sequence


@pytest.mark.parametrize(
    ("frames", "changes", "blamed"),
    [
        ("1000", {}, "frames_per_segment"),
        ("30", {"subdivisions": 1}, "subdivisions"),
        ("4", {"subdivisions": 3, "width": 4096, "height": 4096}, "subdivisions"),
        ("3", {"width": 16384, "height": 16384}, "width"),
    ],
)
def test_a_video_larger_than_the_memory_that_is_free_is_refused_first(models, monkeypatch, frames, changes, blamed):
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_, **__: 4 * 2**30)
    monkeypatch.setattr(comfy.model_management, "get_total_memory", lambda *_, **__: 16 * 2**30)
    with pytest.raises(ValueError, match=f"^{blamed}: expected a video that fits into the 4.0 GiB of memory that are"):
        sequence(models, keyframes(2), frames_per_segment=frames, **{"width": 1024, "height": 576, **changes})


def test_a_single_clips_frames_are_not_copied(models, monkeypatch):
    decoded, decode = [], models[2].decode
    monkeypatch.setattr(models[2], "decode", lambda latents: (decoded.append(decode(latents)), decoded[-1])[1])
    images, _ = sequence(models, keyframes(2), frames_per_segment="2")
    assert images.data_ptr() == decoded[0].data_ptr()


def test_frames_go_straight_to_their_places():
    class Decoder:
        def decode(self, latents):
            return latents.expand(-1, 3, 8, 8).movedim(1, -1).contiguous()

    video = Video(Decoder(), 7)
    for first in (0, 3, 6):
        video.add(torch.arange(first, first + 4.0).reshape(4, 1, 1, 1))
        place = video.images.data_ptr()
        assert video.images[: first + 1, 0, 0, 0].tolist() == list(range(first + 1))
    assert video.images.data_ptr() == place and video.images.shape == (7, 8, 8, 3)
