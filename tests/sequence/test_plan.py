"""Segments, their frames and their seeds."""

import itertools

from generative_inbetweening.sequence.plan import (
    clip_seed,
    clips_to_sample,
    parse_frames_per_segment,
    plan_segments,
    subdivided_frames,
    video_frames,
)


def test_numbers_of_frames_and_clips():
    assert parse_frames_per_segment(" 8,14 , 8", 3) == [8, 14, 8]
    for keyframes_count, loop in [(2, False), (4, False), (1, True), (4, True)]:
        segments = plan_segments(keyframes_count, "5", loop)
        assert segments[0].first == 0 and segments[-1].last == (0 if loop else keyframes_count - 1)
        assert all(left.last == right.first for left, right in itertools.pairwise(segments))
        expected = keyframes_count * 4 if loop else (keyframes_count - 1) * 4 + 1
        assert video_frames(segments, 0, loop) == expected
    assert [subdivided_frames(25, passes) for passes in range(3)] == [25, 577, 13825]
    assert [clips_to_sample(25, passes) for passes in range(3)] == [1, 25, 601]


def test_seeds_are_a_function_of_the_first():
    paths = [(index,) for index in range(50)] + [(0, index) for index in range(50)] + [(1, 0, 0), (10,), (1, 0)]
    seeds = [clip_seed(7, path) for path in paths]
    assert seeds[0] == 7 and seeds == [clip_seed(7, path) for path in paths]
    assert len(set(seeds)) == len(set(paths)) and all(0 <= seed < 2**64 for seed in seeds)
    assert clip_seed(7, (1,)) != clip_seed(8, (1,))
