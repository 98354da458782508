"""A segment's last frames guide the next one: what is held, what is dropped, loops, interrupted runs."""

import pytest
import torch
from generative_inbetweening.sequence import run as sequence_run
from generative_inbetweening.sequence.guiding_frames import FinishedClip, Guides, guides_of
from helpers.sequences import keyframes, sequence

from nodes import VAEDecode

# Noise of 700 times the latents comes and goes.
ROUNDING = {"rtol": 1e-3, "atol": 2e-3}


@pytest.fixture
def clips(monkeypatch) -> list[torch.Tensor]:
    """The latents of every clip that is sampled, with the frames that are dropped afterwards."""
    results, original = [], sequence_run.dual_direction_ksampler

    def watched(*arguments):
        result = original(*arguments)
        results.append(result["samples"])
        return result

    monkeypatch.setattr(sequence_run, "dual_direction_ksampler", watched)
    return results


@pytest.fixture
def ends(monkeypatch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The two pictures that every clip was conditioned on."""
    pictures, original = [], sequence_run.encode_keyframes

    def watched(clip_vision, vae, first, last, **settings):
        pictures.append((first, last))
        return original(clip_vision, vae, first, last, **settings)

    monkeypatch.setattr(sequence_run, "encode_keyframes", watched)
    return pictures


def test_next_segment_begins_in_the_one_before_and_holds_its_frames(models, clips, ends):
    images, latents = sequence(models, keyframes(3), guiding_frames=2)
    assert [len(clip) for clip in clips] == [4, 6] and len(images) == len(latents) == 2 * 3 + 1
    assert torch.allclose(clips[1][:3], clips[0][1:], **ROUNDING)
    # The frame at the keyframe is shown once; the guiding frames are not shown again.
    assert torch.equal(latents, torch.cat([clips[0], clips[1][3:]]))
    decoded = VAEDecode().decode(models[2], {"samples": clips[0]})[0]
    assert torch.equal(ends[1][0], decoded[1:2]) and torch.equal(ends[1][1], keyframes(3)[2:])


@pytest.mark.slow
def test_without_them_and_in_the_first_segment_nothing_changes(models):
    plain, guided = (sequence(models, keyframes(3), guiding_frames=count)[1] for count in (0, 1))
    assert torch.equal(plain[:4], guided[:4])
    assert (plain[4:] - guided[4:]).abs().mean() > 1e-4
    assert torch.equal(sequence(models, keyframes(2), guiding_frames=3)[1], sequence(models, keyframes(2))[1])


def test_loop_is_guided_where_it_closes(models, clips, ends):
    images, _ = sequence(models, keyframes(2), loop=True, guiding_frames=1)
    assert [len(clip) for clip in clips] == [4, 6] and len(images) == 2 * 3
    assert torch.allclose(clips[1][:2], clips[0][2:], **ROUNDING)
    assert torch.allclose(clips[1][-2:], clips[0][:2], **ROUNDING)
    decoded = VAEDecode().decode(models[2], {"samples": clips[0]})[0]
    assert torch.equal(ends[1][0], decoded[2:3]) and torch.equal(ends[1][1], decoded[1:2])


def test_one_picture_has_no_neighbour(models):
    guided, plain = (sequence(models, keyframes(1), loop=True, guiding_frames=count)[0] for count in (2, 0))
    assert torch.equal(guided, plain)


@pytest.mark.slow
def test_clips_of_a_subdivision_are_not_guided(models, clips):
    images, _ = sequence(models, keyframes(3), frames_per_segment="3", subdivisions=1, guiding_frames=1)
    assert [len(clip) for clip in clips] == [3, 3, 3, 4, 3, 3] and len(images) == 2 * 4 + 1


@pytest.mark.slow
def test_finished_segments_are_known_by_what_guides_them(models, sampled):
    images, _ = sequence(models, keyframes(4), guiding_frames=1)
    sampled.clear()
    assert torch.equal(sequence(models, keyframes(4), guiding_frames=1)[0], images) and not sampled
    # The first segment is the same with and without.
    sequence(models, keyframes(4), guiding_frames=2)
    assert [frames for frames, _ in sampled] == [6, 6]
    sampled.clear()
    changed = keyframes(4).clone()
    changed[3] = 0.5
    sequence(models, changed, guiding_frames=1)
    assert [frames for frames, _ in sampled] == [5]
    sampled.clear()
    changed = keyframes(4).clone()
    changed[0] = 0.5
    sequence(models, changed, guiding_frames=1)
    assert [frames for frames, _ in sampled] == [4, 5, 5]


def test_more_than_the_neighbour_has_is_refused(models, sampled):
    with pytest.raises(ValueError, match="guiding_frames: expected at most 2, one less than the shortest.*found 3"):
        sequence(models, keyframes(3), frames_per_segment="3, 5", guiding_frames=3)
    assert not sampled


def test_held_frames_are_those_of_the_neighbours():
    before, after = (
        FinishedClip(name, torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 4, 2, 2) + offset)
        for name, offset in (("before", 10), ("after", 20))
    )
    guides = Guides(2, before, after)
    assert guides and guides.frames(4) == 8 and guides.keys == [2, "before", "after"]
    latent = guides.held(torch.zeros(8, 4, 2, 2))
    assert latent["samples"][:, 0, 0, 0].tolist() == [12, 13, 14, 0, 0, 20, 21, 22]
    assert latent["noise_mask"][:, 0, 0, 0].tolist() == [0, 0, 0, 1, 1, 0, 0, 0]
    assert guides.without_extra(latent["samples"])[:, 0, 0, 0].tolist() == [14, 0, 0, 20]
    assert not Guides(2) and not Guides(2).keys and Guides(2).frames(4) == 4


def test_which_segments_are_guided_and_by_what():
    finished = [FinishedClip(str(index), torch.zeros(0)) for index in range(3)]
    assert not guides_of(0, [], 3, 2, True) and not guides_of(1, finished[:1], 3, 0, True)
    assert guides_of(1, finished[:1], 3, 2, True) == Guides(2, finished[0])
    assert guides_of(2, finished[:2], 3, 2, True) == Guides(2, finished[1], finished[0])
    assert guides_of(2, finished[:2], 3, 2, False) == Guides(2, finished[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "decoded"),
    [
        ({}, 2),
        ({"guiding_frames": 1}, 2),
        ({"guiding_frames": 1, "loop": True}, 3),
        ({"guiding_frames": 1, "subdivisions": 1}, 6),
    ],
)
def test_every_clip_is_decoded_once(models, monkeypatch, changes, decoded):
    calls, decode = [], models[2].decode
    monkeypatch.setattr(models[2], "decode", lambda latents: (calls.append(latents), decode(latents))[1])
    sequence(models, keyframes(3), frames_per_segment="3", **changes)
    assert len(calls) == decoded and len({call.data_ptr() for call in calls}) == decoded
