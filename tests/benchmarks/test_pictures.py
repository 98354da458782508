"""The quality benchmark's moving pictures: every video of every clip, frame by frame."""

import pytest

pytest.importorskip("matplotlib")
import numpy as np
from generative_inbetweening.benchmarks.common.clips import first_of_each_number
from generative_inbetweening.benchmarks.quality.pictures import (
    CAPTION,
    GAP,
    MOVING_SIDE,
    moving_picture,
)
from generative_inbetweening.demo.world.world import make_clip
from PIL import Image

FRAMES, SIZE = 4, (24, 16)


def strip(path, first: int):
    """Four grey frames of rising brightness, side by side."""
    levels = np.repeat(np.arange(first, first + 40 * FRAMES, 40, dtype=np.uint8), SIZE[0])
    Image.fromarray(np.repeat(levels[None], SIZE[1], 0)).save(path)
    return path


def test_videos_play_beside_and_clips_below_each_other(tmp_path):
    clips = [
        {"one": strip(tmp_path / "a.png", 0), "other": strip(tmp_path / "b.png", 20)},
        {"one": strip(tmp_path / "c.png", 40), "other": tmp_path / "missing.png"},
    ]
    moving_picture(tmp_path / "moving.webp", clips, FRAMES)
    width, height = (side * MOVING_SIDE // SIZE[1] for side in SIZE)
    with Image.open(tmp_path / "moving.webp") as moving:
        assert moving.n_frames == FRAMES and moving.size == (2 * width + GAP, CAPTION + 2 * height + GAP)
        for frame in range(FRAMES):
            moving.seek(frame)
            shown = moving.convert("L")
            middles = [(0, 0, 0), (1, 0, 20), (0, 1, 40)]
            for column, row, first in middles:
                place = (column * (width + GAP) + width // 2, CAPTION + row * (height + GAP) + height // 2)
                assert shown.getpixel(place) == pytest.approx(first + 40 * frame, abs=4)


def test_without_a_video_there_is_no_picture(tmp_path):
    moving_picture(tmp_path / "moving.webp", [{"one": tmp_path / "missing.png"}], FRAMES)
    assert not list(tmp_path.iterdir())


def test_the_first_clips_with_one_two_and_three_objects_are_shown():
    clips = [f"{seed}" for seed in range(2_000_000, 2_000_016)]
    shown = first_of_each_number(clips)
    assert [len(make_clip(int(clip), "test").motion.centre) for clip in shown] == [1, 2, 3]
    assert shown[1] == clips[0] and first_of_each_number(clips[:1]) == clips[:1]
