"""Keyframes as a chain in the real nodes: pictures of any size, frames of their own, finished segments."""

import pytest
import torch
from generative_inbetweening.nodes import InbetweenKeyframe
from generative_inbetweening.sequence.plan import clip_seed
from helpers.sequences import chain_of, keyframes, sequence

NAN = float("nan")


def pictures_of_all_kinds() -> list[torch.Tensor]:
    """Of other sizes, aspects and channels: colour, grey, with alpha."""
    generator = torch.manual_seed(3)
    return [torch.rand(shape, generator=generator) for shape in ((1, 80, 128, 3), (1, 40, 40, 1), (1, 64, 256, 4))]


def test_a_chain_is_the_batch_of_its_pictures(models, sampled):
    images, latents = sequence(models, keyframes(3), frames_per_segment="3, 4")
    sampled.clear()
    first, second, third = keyframes(3).split(1)
    chain = chain_of((first, 3, 1.0), (second, 4, 1.0), (third, 9, 1.0))
    # The finished segments of the batch are taken up: nothing that they depend on is another.
    again, same_latents = sequence(models, chain, frames_per_segment="not read")
    assert not sampled and torch.equal(again, images) and torch.equal(same_latents, latents)


def test_pictures_of_other_sizes_and_channels_become_one_video(models, sampled):
    chain = chain_of(*((picture, 2 + index, 1.0) for index, picture in enumerate(pictures_of_all_kinds())))
    images, latents = sequence(models, chain, loop=True)
    assert images.shape == (1 + 2 + 3, 64, 64, 3) and len(latents) == 6 and images.isfinite().all()
    assert sampled == [(frames, clip_seed(1, (index,))) for index, frames in enumerate((2, 3, 4))]


def test_each_picture_of_another_aspect_is_remarked_on(models, caplog):
    wide, square, wider = pictures_of_all_kinds()
    sequence(models, chain_of((square, 8, 1.0), (wide, 8, 1.0), (wider, 8, 1.0)), resume=False)
    remarks = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line.split(" has ")[0] for line in remarks] == ["keyframes: 128×80", "keyframes: 256×64"]


def test_subdivisions_and_guiding_frames_of_a_chain(models):
    chain = chain_of(*((picture, 3, 1.0) for picture in pictures_of_all_kinds()))
    images, _ = sequence(models, chain, subdivisions=1, guiding_frames=1)
    assert len(images) == 2 * 4 + 1 and images.isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"guiding_frames": 3}, "guiding_frames: expected at most 2.*raise frames of the Keyframe nodes"),
        ({"subdivisions": 1}, "keyframes: expected at least 3 frames.*Raise the frames of the Keyframe nodes"),
    ],
)
def test_numbers_that_do_not_go_with_a_chain_are_named(models, sampled, changes, message):
    first, last = keyframes(2).split(1)
    frames = 2 if "subdivisions" in changes else 3
    with pytest.raises(ValueError, match=f"^{message}"):
        sequence(models, chain_of((first, frames, 1.0), (last, 5, 1.0), (first, 5, 1.0)), **changes)
    assert not sampled


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"strength": NAN}, "strength: expected a number from 0.0 to 1.0, found nan"),
        ({"strength": -0.1}, "strength: expected at least 0.0, found -0.1"),
        ({"strength": 1.01}, "strength: expected at most 1.0, found 1.01"),
        ({"frames": 1}, "frames: expected at least 2, found 1"),
        ({"frames": 1025}, "frames: expected at most 1024, found 1025"),
        ({"keyframes": torch.zeros(2, 64, 64, 3)}, "keyframes: expected keyframes, from Keyframe, found a tensor"),
        ({"image": torch.zeros(0, 64, 64, 3)}, "image: expected pictures, found"),
        ({"image": torch.zeros(1, 64, 64, 2)}, "image: expected 1, 3 or 4 channels, found 2"),
        ({"image": torch.full((1, 64, 64, 3), NAN)}, "image: expected colours from 0 to 1, found NaN"),
    ],
)
def test_what_is_no_keyframe_is_named(values, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        InbetweenKeyframe.execute(**{"image": torch.zeros(1, 64, 64, 3), "frames": 25, "strength": 1.0, **values})


def test_a_sequence_takes_a_chain_or_pictures_and_nothing_else(models):
    with pytest.raises(ValueError, match="^keyframes: expected keyframes, from Keyframe, or pictures, found something"):
        sequence(models, {"samples": torch.zeros(1, 4, 8, 8)})
