"""Segments, their frames and their seeds."""

import itertools

import pytest
import torch
from generative_inbetweening.sequence.keyframe_chain import (
    KeyframeChain,
    parse_frames_per_segment,
    sequence_keyframes,
)
from generative_inbetweening.sequence.plan import (
    Segment,
    clip_seed,
    clips_to_sample,
    plan_sequence,
    subdivided_frames,
)


def picture(number: int) -> torch.Tensor:
    return torch.full((1, 8, 8, 3), number / 10)


def chain_of(*keyframes: tuple[int, float]) -> KeyframeChain:
    """Different pictures with (frames, strength) each."""
    chain = KeyframeChain(())
    for number, (frames, strength) in enumerate(keyframes):
        chain = chain.then(picture(number), frames, strength)
    return chain


def planned(chain: KeyframeChain, loop: bool) -> list[Segment]:
    return plan_sequence(sequence_keyframes(chain, "7", loop), loop).segments


def test_numbers_of_frames_and_clips():
    assert parse_frames_per_segment(" 8,14 , 8", 3) == [8, 14, 8]
    for keyframes_count, loop in [(2, False), (4, False), (1, True), (4, True)]:
        batch = torch.cat([picture(number) for number in range(keyframes_count)])
        chain = sequence_keyframes(batch, "5", loop)
        segments = plan_sequence(chain, loop).segments
        assert segments[0].first == 0 and segments[-1].last == (0 if loop else keyframes_count - 1)
        assert all(left.last == right.first for left, right in itertools.pairwise(segments))
        expected = keyframes_count * 4 if loop else (keyframes_count - 1) * 4 + 1
        assert plan_sequence(chain, loop).frames == expected
        assert plan_sequence(chain, loop, close_loop=loop).frames == expected + loop
    assert [subdivided_frames(25, passes) for passes in range(3)] == [25, 577, 13825]
    assert [clips_to_sample(25, passes) for passes in range(3)] == [1, 25, 601]


def test_seeds_are_a_function_of_the_first():
    paths = [(index,) for index in range(50)] + [(0, index) for index in range(50)] + [(1, 0, 0), (10,), (1, 0)]
    seeds = [clip_seed(7, path) for path in paths]
    assert seeds[0] == 7 and seeds == [clip_seed(7, path) for path in paths]
    assert len(set(seeds)) == len(set(paths)) and all(0 <= seed < 2**64 for seed in seeds)
    assert clip_seed(7, (1,)) != clip_seed(8, (1,))


def test_a_chain_has_its_own_frames():
    chain = chain_of((4, 1), (6, 1), (9, 1))
    assert planned(chain, loop=False) == [Segment(0, 1, 4), Segment(1, 2, 6)]
    assert planned(chain, loop=True) == [Segment(0, 1, 4), Segment(1, 2, 6), Segment(2, 0, 9)]
    assert planned(chain_of((5, 1)), loop=True) == [Segment(0, 0, 5)]


def test_pictures_of_one_keyframe_are_keyframes_in_their_order():
    batch = torch.cat([picture(1), picture(2)])
    chain = KeyframeChain(()).then(picture(0), 4, 1.0).then(batch, 6, 1.0).then(picture(3), 9, 1.0)
    assert planned(chain, loop=False) == [Segment(0, 1, 4), Segment(1, 2, 6), Segment(2, 3, 6)]
    assert [float(keyframe.picture[0, 0, 0, 0]) for keyframe in chain.keyframes] == pytest.approx([0, 0.1, 0.2, 0.3])


def test_keyframes_below_strength_1_lie_inside_a_longer_segment():
    chain = chain_of((4, 1), (6, 0.5), (3, 0.2), (9, 1), (5, 1))
    assert planned(chain, loop=False) == [Segment(0, 3, 4 + 6 + 3 - 2, ((1, 3), (2, 8))), Segment(3, 4, 9)]
    # The last keyframe of a loop leads back to the first.
    assert planned(chain_of((4, 1), (6, 0.5)), loop=True) == [Segment(0, 0, 9, ((1, 3),))]


def test_a_keyframe_of_strength_0_is_left_out():
    assert planned(chain_of((4, 1), (6, 0), (9, 1)), loop=False) == [Segment(0, 2, 9)]


def test_the_first_picture_again_at_the_end_of_a_loop_is_left_out():
    chain = chain_of((4, 1), (6, 1)).then(picture(0), 9, 1.0)
    assert planned(chain, loop=True) == [Segment(0, 1, 4), Segment(1, 0, 6)]
    assert planned(chain, loop=False) == [Segment(0, 1, 4), Segment(1, 2, 6)]
    as_middle = chain_of((4, 1), (6, 1)).then(picture(0), 9, 0.5)
    assert planned(as_middle, loop=True) == [Segment(0, 1, 4), Segment(1, 0, 14, ((2, 5),))]


@pytest.mark.parametrize(
    ("keyframes", "loop", "message"),
    [
        ([], False, "keyframes: expected at least 2 pictures, found 0.*chain these, or switch loop on"),
        ([], True, r"keyframes: expected at least 1 picture, found 0.*chain these\."),
        ([(5, 1)], False, "keyframes: expected at least 2 pictures, found 1"),
        ([(5, 0.5), (5, 1)], False, "keyframes: expected strength 1 of the first keyframe.*begins, found 0.5.*before"),
        ([(5, 0.5), (5, 1)], True, "keyframes: expected strength 1 of the first keyframe"),
        ([(5, 1), (5, 0)], False, "keyframes: expected strength 1 of the last keyframe.*ends, found 0.*after it"),
        ([(1000, 1), (26, 0.5), (5, 1)], False, "keyframes: expected at most 1024 frames.*found 1025"),
    ],
)
def test_a_chain_that_cannot_be_is_named(keyframes, loop, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        planned(chain_of(*keyframes), loop)
