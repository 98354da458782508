"""Keyframes as a chain in the real nodes: pictures of any size, frames of their own, finished segments."""

import pytest
import torch
from generative_inbetweening.nodes import (
    InbetweenDualDirectionKSampler,
    InbetweenEncodeKeyframes,
    InbetweenKeyframe,
    InbetweenMiddleKeyframe,
)
from generative_inbetweening.sequence import run as sequence_run
from generative_inbetweening.sequence.plan import clip_seed
from helpers.sequences import chain_of, keyframes, sequence
from helpers.small_model import settings

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
    left_out = wide.transpose(1, 2)
    sequence(models, chain_of((square, 8, 1.0), (wide, 3, 1.0), (left_out, 6, 0.0), (wider, 8, 1.0)), resume=False)
    remarks = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line.split(" has ")[0] for line in remarks] == ["keyframes: 128×80", "keyframes: 256×64"]


def test_a_chain_holds_pictures_without_a_copy():
    pictures = keyframes(3)
    chain = chain_of((pictures[:1], 4, 1.0), (pictures[1:], 4, 1.0))
    assert [each.picture.data_ptr() for each in chain.keyframes] == [each.data_ptr() for each in pictures]


def test_subdivisions_of_a_chain(models):
    chain = chain_of(*((picture, 3, 1.0) for picture in pictures_of_all_kinds()))
    images, _ = sequence(models, chain, subdivisions=1)
    assert len(images) == 2 * 4 + 1 and images.isfinite().all()


def test_a_chain_too_short_for_subdivisions_is_named(models, sampled):
    first, last = keyframes(2).split(1)
    message = "^keyframes: expected at least 3 frames.*Raise the frames of the Keyframe nodes"
    with pytest.raises(ValueError, match=message):
        sequence(models, chain_of((first, 2, 1.0), (last, 5, 1.0), (first, 5, 1.0)), subdivisions=1)
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


@pytest.fixture
def encoded_clips(monkeypatch) -> list[dict]:
    """What every clip was encoded from: its pictures as `first` and `last`, and Encode Keyframes' other values."""
    clips, original = [], sequence_run.encode_keyframes

    def watched(clip_vision, vae, first, last, **settings):
        clips.append({"first": first, "last": last, **settings})
        return original(clip_vision, vae, first, last, **settings)

    monkeypatch.setattr(sequence_run, "encode_keyframes", watched)
    return clips


def test_a_keyframe_below_strength_1_is_a_middle_keyframe_of_one_clip(models, sampled):
    first, second, last = keyframes(3).split(1)
    images, latents = sequence(models, chain_of((first, 3, 1.0), (second, 4, 0.6), (last, 9, 1.0)))
    assert sampled == [(6, 1)] and len(images) == 6
    middle = InbetweenMiddleKeyframe.execute(second, 2, 0.6).args[0]
    positive, negative, latent = InbetweenEncodeKeyframes.execute(
        *models[1:],
        first_keyframe=first,
        last_keyframe=last,
        middle_keyframes=middle,
        width=64,
        height=64,
        frames=6,
        fps=7,
        motion_bucket=127,
        noise_augmentation=0.0,
        seed=1,
        fit="crop",
    ).args
    expected = InbetweenDualDirectionKSampler.execute(
        models[0], positive, negative, latent, seed=1, preset="paper", denoise=1.0, settings=settings(steps=1)
    ).args[0]["samples"]
    assert torch.equal(latents, expected)
    without, _ = sequence(models, chain_of((first, 3, 1.0), (second, 4, 0.0), (last, 9, 1.0)))
    plain, _ = sequence(models, chain_of((first, 6, 1.0), (last, 9, 1.0)))
    assert torch.equal(without, plain) and not torch.equal(images, plain)


def test_a_loop_through_a_middle_keyframe_can_be_subdivided_and_closed(models, encoded_clips):
    first, second = keyframes(2).split(1)
    chain = chain_of((first, 2, 1.0), (second, 2, 0.5))
    images, _ = sequence(models, chain, loop=True, close_loop=True, subdivisions=1)
    assert len(images) == 2 * 2 + 1 and torch.equal(images[0], images[-1])
    assert [len(clip["middle"]) for clip in encoded_clips] == [1, 0, 0]
    assert torch.equal(encoded_clips[0]["first"], encoded_clips[0]["last"])


def test_a_finished_segment_is_known_by_its_middle_keyframes(models, sampled):
    first, second, last = keyframes(3).split(1)

    def run(picture=second, strength=0.5, frames=(2, 3)):
        sampled.clear()
        chain = chain_of((first, frames[0], 1.0), (picture, frames[1], strength), (last, 2, 1.0), (first, 2, 1.0))
        sequence(models, chain)
        return [number for number, _ in sampled]

    assert run() == [4, 2]
    assert run() == []
    for change in ({"picture": second.flip(1)}, {"strength": 0.6}, {"frames": (3, 2)}, {"strength": 0.0}):
        assert run(**change) == [4]
