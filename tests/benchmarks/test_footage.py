"""The quality benchmark on videos of the user's: what is read of them, which clips are cut, what is measured."""

import json
import math

import av
import numpy as np
import pytest
import torch
from generative_inbetweening.benchmarks.common.options import OptionError
from generative_inbetweening.benchmarks.common.peers import cross_fade
from generative_inbetweening.benchmarks.footage import colours, report, windows
from generative_inbetweening.benchmarks.footage.measures import ghosting
from generative_inbetweening.benchmarks.footage.selection import read, select
from generative_inbetweening.benchmarks.footage.videos import Unusable, find, opened
from generative_inbetweening.benchmarks.footage.windows import ClipLength, spread
from helpers.videos import HEIGHT, WIDTH, scene, write_sound, write_video
from PIL import Image

LENGTH = ClipLength(6)


def clips_of(path, length=LENGTH):
    return list(windows.windows(opened(path), length))


def chosen(folder, out, count=4, length=LENGTH):
    return select(folder, count, length, out / "clips.json")


def first_clip(folder, out, length=LENGTH, width=WIDTH, height=HEIGHT):
    selection = chosen(folder, out, 1, length)
    return read(folder, selection.clips[0], width, height).truth


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "footage"
    folder.mkdir()
    return folder


# Which frames.


def test_a_clip_is_frames_of_the_video_as_they_are(folder, tmp_path):
    pictures = scene(30)
    write_video(folder / "a.mkv", pictures)
    selection = chosen(folder, tmp_path, 1, ClipLength(5, stride=2))
    (clip,) = selection.clips
    first = round(clip.times[0] * 24)
    truth = read(folder, clip, WIDTH, HEIGHT).truth
    expected = np.stack(pictures[first : first + 10 : 2]).transpose(0, 3, 1, 2)
    assert np.abs(truth.numpy() * 255 - expected).max() <= 2
    assert clip.rate == pytest.approx(12, rel=0.01) and truth.dtype == torch.float32


def test_a_clip_deep_in_a_compressed_video_is_found(folder, tmp_path):
    pictures = scene(96, step=1)
    write_video(folder / "a.mp4", pictures, options={"g": "24", "bf": "2", "preset": "fast"})
    (clip,) = chosen(folder, tmp_path, 1).clips
    first = round(clip.times[0] * 24)
    assert first > 40
    truth = read(folder, clip, WIDTH, HEIGHT).truth
    expected = np.stack(pictures[first : first + 6]).transpose(0, 3, 1, 2)
    assert np.abs(truth.numpy() * 255 - expected).max() <= 2


def test_seconds_mean_the_same_motion_at_every_frame_rate(folder, tmp_path):
    for rate in (24, 48):
        write_video(folder / f"{rate}.mkv", scene(2 * rate, step=48 // rate), rate)
    clips = chosen(folder, tmp_path, 2, ClipLength(5, seconds=0.5)).clips
    assert [clip.times[-1] - clip.times[0] for clip in clips] == pytest.approx([0.5, 0.5], abs=0.01)
    with pytest.raises(Unusable, match="13 frames in 0.5 seconds, not 20"):
        clips_of(folder / "24.mkv", ClipLength(20, seconds=0.5))


def test_no_clip_goes_over_a_cut(folder):
    path = write_video(folder / "a.mkv", [*scene(9, 20), *scene(9, 200, square=10), *scene(4, 20)])
    found = sorted(clips_of(path))
    assert [round(times[0] * 24) for times in found] == [0, 9]
    # A pan as fast as this is no cut.
    panned = [
        np.roll(np.repeat(np.linspace(0, 255, WIDTH), 3).astype(np.uint8).reshape(1, WIDTH, 3), 8 * i, 1)
        for i in range(12)
    ]
    small = np.stack([np.repeat(each, HEIGHT, 0) for each in panned]).astype(np.float32) / 255
    assert not windows.cuts(small).any()


def test_a_variable_frame_rate_is_used_where_it_is_even(folder):
    even, uneven = [40] * 12, [90, 20, 70, 35, 120, 15] * 2
    found = clips_of(write_video(folder / "a.mkv", scene(24), times=np.cumsum([*even, *uneven]).tolist()))
    assert [round(times[0] - min(found)[0], 2) for times in sorted(found)] == [0.0, 0.24]
    steps = np.cumsum([40, 90, 20, 70, 35, 120] * 3).tolist()
    with pytest.raises(Unusable, match="variable frame rate"):
        clips_of(write_video(folder / "b.mkv", scene(18), times=steps))


@pytest.mark.parametrize(
    ("pictures", "reason"),
    [
        (lambda: scene(4), "too short: its longest scene has 4 frames, not 6"),
        (lambda: scene(12, step=0), "stands still"),
        (lambda: [picture for picture in scene(8) for _ in range(2)], "repeats its frames"),
        (lambda: scene(1), "not even two frames"),
    ],
)
def test_what_no_clip_can_be_cut_from_says_why(folder, pictures, reason):
    path = write_video(folder / "a.mkv", pictures())
    with pytest.raises(Unusable, match=reason):
        clips_of(path)


def test_long_videos_are_looked_at_in_pieces(folder, monkeypatch):
    monkeypatch.setattr(windows, "LONG", 1.0)
    monkeypatch.setattr(windows, "PIECE", 0.5)
    path = write_video(folder / "a.mkv", scene(96), options={"g": "6"})
    video = opened(path)
    assert video.duration == pytest.approx(4, abs=0.1)
    first = next(windows.windows(video, LENGTH))
    # The first piece that is looked at lies in the middle.
    assert 2 <= first[0] < 2.6
    assert len(clips_of(path)) == 16


def test_every_beginning_of_the_order_is_spread():
    assert sorted(spread(11)) == list(range(11)) and spread(1) == [0] and spread(0) == []
    assert spread(8)[:4] == [4, 0, 6, 2]


# Which colours.


def test_the_files_own_matrix_counts(folder):
    pictures = scene(8)
    for matrix in (1, 5):
        sources = [av.VideoFrame.from_ndarray(picture, "rgb24") for picture in pictures]
        converted = [source.reformat(format="yuv444p", dst_colorspace=matrix) for source in sources]
        path = write_video(folder / f"{matrix}.mkv", converted, tags={"colorspace": matrix, "color_range": 1})
        picture = next(opened(path).frames()).picture()[0].numpy() * 255
        # The square's colour comes back only by the matrix that made it.
        assert np.abs(picture - pictures[0]).max() <= 4, matrix


def test_full_range_is_not_stretched(folder):
    pictures = scene(4, ground=0, square=255)
    path = write_video(folder / "a.mkv", pictures, pix_fmt="yuvj444p", tags={"color_range": 2, "colorspace": 5})
    picture = next(opened(path).frames()).picture()[0].numpy() * 255
    assert np.abs(picture - pictures[0]).max() <= 4


def test_ten_bits_become_eight_without_a_shift(folder, tmp_path):
    pictures = scene(8)
    write_video(folder / "a.mkv", pictures, codec="ffv1", pix_fmt="yuv444p10le")
    truth = first_clip(folder, tmp_path)
    assert np.abs(truth[0].numpy().transpose(1, 2, 0) * 255 - pictures[0]).max() <= 3
    assert torch.equal((truth * 255).round(), truth * 255)


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_is_brought_down_and_said(folder, transfer):
    path = write_video(
        folder / "a.mkv",
        scene(8),
        codec="libx265",
        pix_fmt="yuv420p10le",
        tags={"color_trc": transfer, "colorspace": 9},
    )
    video = opened(path)
    frame = next(video.frames()).picture()
    assert frame.min() >= 0 and frame.max() <= 1
    assert any("HDR" in remark for remark in video.remarks)


def test_hdr_curves_hold_the_white_of_paper():
    # ITU-R BT.2408: HDR's reference white, 203 cd/m², is 58 % of PQ and 75 % of HLG.
    for signal, transfer in ((0.58, 16), (0.75, 18)):
        ramp = colours.toned_down(np.linspace(0, 1, 101, dtype=np.float32)[:, None, None].repeat(3, 2), transfer)
        assert (
            (np.diff(ramp[:, 0, 0]) >= 0).all() and ramp[0].max() == 0 and ramp[-1].min() == pytest.approx(1, abs=0.01)
        )
        white = colours.toned_down(np.full((1, 1, 3), signal, np.float32), transfer)
        assert white == pytest.approx(((1 + 1 / 4.926**2) / 2) ** (1 / 2.4), abs=0.01)


def test_turned_by_metadata(folder, tmp_path):
    pictures = scene(8)
    for angle in (90, -90, 180):
        path = write_video(folder / "a.mp4", pictures, rotation=angle)
        picture = next(opened(path).frames()).picture()[0].numpy() * 255
        expected = np.rot90(pictures[0], angle // 90)
        assert picture.shape == expected.shape and np.abs(picture - expected).max() <= 3, angle
    assert first_clip(folder, tmp_path, width=24, height=32).shape == (6, 3, 32, 24)


def test_clips_are_cropped_not_squeezed(folder, tmp_path):
    pictures = scene(8)
    write_video(folder / "a.mkv", pictures)
    truth = first_clip(folder, tmp_path, width=48, height=48)
    assert np.abs(truth[0].numpy().transpose(1, 2, 0) * 255 - pictures[0][:, 8:56]).max() <= 2


def test_folders_of_pictures_are_videos(folder, tmp_path):
    pictures = scene(8)
    (folder / "bear").mkdir()
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / "bear" / f"{index:05d}.png")
    selection = chosen(folder, tmp_path)
    assert [clip.file for clip in selection.clips] == ["bear"] and "24 a second" in selection.remarks["bear"]
    truth = read(folder, selection.clips[0], WIDTH, HEIGHT).truth
    assert np.array_equal((truth[2] * 255).round().numpy().transpose(1, 2, 0), pictures[2])


# Bad files.


def test_what_cannot_be_used_is_listed_with_the_reason(folder, tmp_path):
    write_video(folder / "good.mkv", scene(20))
    write_video(folder / "short.mkv", scene(3))
    write_sound(folder / "sound.mp4")
    (folder / "broken.mp4").write_bytes(b"no video at all" * 100)
    whole = write_video(folder / "cut_off.mp4", scene(20)).read_bytes()
    # Without its end an mp4 has no index.
    (folder / "cut_off.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("left alone")
    selection = chosen(folder, tmp_path)
    assert {clip.file for clip in selection.clips} == {"good.mkv"}
    reasons = {"short.mkv": "too short", "sound.mp4": "no moving picture"} | dict.fromkeys(
        ("broken.mp4", "cut_off.mp4"), "cannot be read"
    )
    assert set(selection.skipped) == set(reasons)
    assert all(reason in selection.skipped[file] for file, reason in reasons.items())


def test_interlaced_videos_are_not_used(folder):
    interlaced = {"x264-params": "tff=1", "flags": "+ildct+ilme"}
    path = write_video(folder / "a.mkv", scene(12), pix_fmt="yuv420p", options=interlaced)
    with pytest.raises(Unusable, match="interlaced"):
        clips_of(path)


def test_a_video_that_is_broken_in_the_middle_is_used_around_it(folder, tmp_path):
    path = write_video(folder / "a.ts", scene(60), codec="mpeg4", pix_fmt="yuv420p", options={"g": "6", "qscale": "2"})
    content = bytearray(path.read_bytes())
    middle = slice(len(content) // 2, len(content) // 2 + 4000)
    content[middle] = bytes(len(content[middle]))
    path.write_bytes(content)
    selection = chosen(folder, tmp_path, 3)
    assert len(selection.clips) == 3
    assert all(read(folder, clip, WIDTH, HEIGHT).truth.shape == (6, 3, HEIGHT, WIDTH) for clip in selection.clips)
    starts = sorted(clip.times[0] for clip in chosen(folder, tmp_path, 20).clips)
    assert starts[0] < 1 and starts[-1] > 1.4


def test_a_video_that_ends_early_is_used_and_said(folder, tmp_path):
    path = write_video(folder / "a.mkv", scene(96))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    selection = chosen(folder, tmp_path)
    assert selection.clips and "ends after" in selection.remarks["a.mkv"]


def test_folders_that_cannot_be_used(folder, tmp_path):
    with pytest.raises(OptionError, match="--footage: expected a folder.*found nothing"):
        find(tmp_path / "none")
    file = write_sound(folder / "sound.m4a")
    with pytest.raises(OptionError, match="found a file: give the folder that it lies in"):
        find(file)
    with pytest.raises(OptionError, match="--footage: expected videos in .*found none among 1 files"):
        find(folder)
    write_video(folder / "short.mkv", scene(3))
    with pytest.raises(OptionError, match="found none:\n  short.mkv is too short"):
        chosen(folder, tmp_path)


# Which clips.


def test_more_clips_begin_with_the_same_ones_and_videos_take_turns(folder, tmp_path):
    for name, frames in (("a", 40), ("b", 20), ("c", 40)):
        write_video(folder / f"{name}.mkv", scene(frames))
    three, nine = (chosen(folder, tmp_path / f"{count}", count).clips for count in (3, 9))
    assert [clip.file for clip in three] == ["a.mkv", "b.mkv", "c.mkv"] and nine[:3] == three
    assert len({clip.name for clip in nine}) == len({clip.seed for clip in nine}) == 9
    # Asked for more than there are.
    assert len(chosen(folder, tmp_path, 100).clips) == 6 + 3 + 6


def test_a_run_that_goes_on_looks_at_no_video_again(folder, tmp_path, monkeypatch):
    path = write_video(folder / "a.mkv", scene(20))
    before = chosen(folder, tmp_path, 2)
    monkeypatch.setattr(windows, "_look", None)
    assert chosen(folder, tmp_path, 2) == before
    monkeypatch.undo()
    # The same name, and another video.
    write_video(path, scene(20, ground=90, step=3))
    path.write_bytes(path.read_bytes() + b"\0" * 5000)
    with pytest.raises(OptionError, match="expected a.mkv as it was"):
        chosen(folder, tmp_path, 2)


# What is measured.


def test_a_cross_fade_is_a_ghost_and_an_object_in_the_wrong_place_is_none():
    generator = torch.Generator().manual_seed(0)
    truth = torch.stack([torch.from_numpy(each) for each in scene(6, step=6)]).movedim(-1, 1).float() / 255
    truth = (truth + 0.02 * torch.rand(truth.shape[1:], generator=generator)).clamp(0, 1)
    fade = cross_fade(truth[0], truth[-1], 6)

    def score(frames):
        return float(np.nanmean(ghosting(frames, truth)))

    assert score(truth) == 0
    assert score(fade) == pytest.approx(1, abs=0.01)
    assert score(truth[:1].expand_as(truth)) < 0.01
    assert score(truth[[0, 0, 1, 2, 5, 5]]) < 0.15
    assert 0.2 < score((truth + fade) / 2) < 0.9
    assert math.isnan(ghosting(fade, truth)[0]) and np.isnan(ghosting(fade, truth[:1].expand_as(truth))).all()


def test_the_report_looks_at_the_half_that_changes_most(tmp_path):
    clips = [f"{number}" for number in range(8)]
    for name, gain in (("cross-fade", 0), ("balanced", 1)):
        for number, clip in enumerate(clips):
            # A cross-fade misses the later clips most; ours is ahead there only.
            psnr = 30.0 - number + gain * (number >= 4)
            row = {"psnr": [50.0, psnr, 50.0], "unet_videos": 0, "seconds": 1.0, "peak_bytes": 1}
            path = tmp_path / "rows" / "footage" / name / f"{clip}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(row))
    found = report.result(tmp_path, ["cross-fade", "balanced"], clips, [])
    assert sorted(found["changing_most"]) == ["4", "5", "6", "7"]
    assert found["ours_minus"]["cross-fade"]["psnr"]["mean"] == 0.5
    assert found["ours_minus_there"]["cross-fade"]["psnr"]["mean"] == 1.0
    assert report.result(tmp_path, ["balanced"], clips[:7], [])["changing_most"] == []


def test_report_tells_the_rows_and_the_clips(folder, tmp_path):
    write_video(folder / "a.mkv", scene(20))
    write_video(folder / "b.mkv", scene(3))
    selection = chosen(folder, tmp_path, 2)
    for name, level in (("balanced", 8.0), ("cross-fade", 7.0), ("truth", 10.0)):
        for number, clip in enumerate(selection.clips):
            row = {"cvvdp": level + number, "psnr": [50.0, 20.0, 50.0], "ghosting": [None, 0.5, None]}
            work = {"unet_videos": 52, "seconds": 2.0, "peak_bytes": 2**30}
            path = tmp_path / "rows" / "footage" / name / f"{clip.name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(row | work))
    names = ["cross-fade", "balanced"]
    found = report.result(tmp_path, names, [clip.name for clip in selection.clips], [])
    assert found["ours"] == "balanced" and found["ours_minus"]["cross-fade"]["cvvdp"]["mean"] == 1.0
    settings = {"frames": 6, "width": 64, "height": 48}
    about = {"settings": settings, "checkpoint": "m", "device": "the CPU", "clips_done": 2}
    text = report.markdown({**found, **about}, selection, ["No FID."])
    assert "| preset `balanced` | 2 | 8.50 [8.00, 9.00] | 20.00" in text and "**+1.00 [+1.00, +1.00]**" in text
    assert "- b.mkv is too short" in text and "- No FID." in text and "a.mkv | 0." in text
