"""Contact sheet, report and preview: what they draw, and that ghosting is told from motion."""

import latent_preview
import pytest
import torch
from comfy.cli_args import LatentPreviewMethod, args
from generative_inbetweening.inspection.keyframe_positions import frame_positions
from generative_inbetweening.inspection.measures import change, distance, ghosting, reduced
from generative_inbetweening.inspection.plots import COLOURS, HEIGHT, WARNING, WIDTH, ticks
from generative_inbetweening.inspection.sheet import MARK, WIDEST, contact_sheet, sheet_columns
from generative_inbetweening.inspection.sheet import WARNING as SHEET_WARNING
from generative_inbetweening.nodes import InbetweenContactSheet, InbetweenReport
from generative_inbetweening.sampler.progress import clip_preview
from helpers.small_model import load

COUNT, SIZE = 9, 96
# The second line of a plot: the distance to the last keyframe.
RED = COLOURS[1]
# Plots are below each other; in the upper part of each are its title and legend.
SECOND_PLOT = slice(HEIGHT + HEIGHT // 4, 2 * HEIGHT)


def noise(seed: int, height: int = SIZE, width: int = SIZE) -> torch.Tensor:
    """A cloudy texture `[height, width, 3]` in 0…1."""
    coarse = torch.rand(1, 3, height // 8, width // 8, generator=torch.manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0].movedim(0, -1)


def square_moving() -> torch.Tensor:
    """A bright square that crosses a textured ground, `[9, 96, 96, 3]`."""
    frames = noise(0).repeat(COUNT, 1, 1, 1) * 0.5
    for index in range(COUNT):
        frames[index, 30:60, 8 * index : 8 * index + 24] = torch.tensor([1.0, 0.9, 0.2])
    return frames


def panning() -> torch.Tensor:
    """A view that moves over a wide texture."""
    wide = noise(1, width=SIZE * 2)
    return torch.stack([wide[:, 10 * index : 10 * index + SIZE] for index in range(COUNT)])


def cross_fade(frames: torch.Tensor) -> torch.Tensor:
    """From the first to the last frame by fading one into the other."""
    share = torch.linspace(0, 1, len(frames)).reshape(-1, 1, 1, 1)
    return (1 - share) * frames[:1] + share * frames[-1:]


def near(pixels: torch.Tensor, colour: tuple[int, int, int]) -> torch.Tensor:
    """Where pixels `[height, width, 3]` have about that colour, each part 0…255."""
    return (pixels - torch.tensor(colour) / 255).abs().amax(dim=-1) < 0.1


def suspicion(frames: torch.Tensor) -> torch.Tensor:
    return ghosting(reduced(frames), [0, len(frames) - 1])


@pytest.mark.parametrize("clip", [square_moving, panning])
def test_ghosting_is_high_in_a_cross_fade_and_low_in_motion(clip):
    moving, fading = suspicion(clip()), suspicion(cross_fade(clip()))
    assert fading[COUNT // 2] > 0.95 and (fading[1:-1] > 0.4).all()
    assert moving.max() < 0.15
    assert moving[0] == moving[-1] == fading[0] == fading[-1] == 0


def test_ghosting_in_part_of_the_picture_or_by_half_lies_between():
    moving, fading = square_moving(), cross_fade(square_moving())
    middle = COUNT // 2
    half = suspicion((moving + fading) / 2)[middle]
    assert suspicion(moving)[middle] < half < suspicion(fading)[middle]
    noisy = fading + 0.02 * torch.randn(fading.shape, generator=torch.manual_seed(2))
    assert suspicion(noisy)[middle] > 0.8


def test_ghosting_is_measured_between_neighbouring_keyframes_and_not_where_nothing_changes():
    fading = cross_fade(square_moving())
    there_and_back = torch.cat([fading, fading.flip(0)[1:]])
    result = ghosting(reduced(there_and_back), [0, COUNT - 1, 2 * COUNT - 2])
    assert result[COUNT // 2] > 0.95 and result[COUNT - 1 + COUNT // 2] > 0.95 and result[COUNT - 1] == 0
    assert ghosting(reduced(there_and_back), [0, 2 * COUNT - 2]).max() == 0


def test_change_and_distance():
    frames = torch.tensor([0.0, 0.5, 0.25]).reshape(3, 1, 1, 1).expand(3, 16, 16, 3)
    pixels = reduced(frames)
    assert change(pixels).tolist() == [0.5, 0.25]
    assert distance(pixels, pixels[1]).tolist() == [0.5, 0, 0.25]


def test_large_grey_and_transparent_frames_are_reduced():
    assert reduced(torch.rand(40, 300, 600, 1)).shape == (40, 3, 128, 256)
    assert reduced(torch.rand(2, 8, 8, 4)).shape == (2, 3, 8, 8)


def test_contact_sheet_shows_every_frame_in_its_place():
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (0, 200, 200), (200, 0, 200)]
    frames = (torch.tensor(colours) / 255).reshape(5, 1, 1, 3).expand(5, 64, 128, 3)
    sheet = contact_sheet(frames, 2, [0, 4])[0]
    boxes = []
    for colour in colours:
        rows, columns = torch.nonzero(near(sheet, colour), as_tuple=True)
        boxes.append([int(end) for end in (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1)])
    plain = [boxes[index] for index in (1, 2, 3)]
    # Nothing is distorted, and row by row they go from the left to the right.
    assert all(right - left == 2 * (bottom - top) for top, bottom, left, right in plain)
    assert boxes[0][1] < boxes[2][0] and boxes[2][1] < boxes[4][0]
    assert boxes[0][3] < boxes[1][2] and boxes[2][3] < boxes[3][2]
    for index, (top, bottom, left, right) in enumerate(boxes):
        # A keyframe has a frame around its picture, the others have none.
        above = sheet[top - 1, (left + right) // 2]
        assert bool(near(above, MARK)) == (index in (0, 4))
        # Below each is its number.
        label = sheet[bottom : bottom + (bottom - top) // 4, left:right]
        assert (label - sheet[0, 0]).abs().max() > 0.5


def test_contact_sheet_columns():
    assert sheet_columns(25, 1024, 576) == 5
    assert sheet_columns(1, 64, 64) == 1 and sheet_columns(8, 1000, 8) == 1
    few, many = torch.zeros(3, 8, 8, 3), torch.zeros(120, 8, 16, 3)
    assert torch.equal(contact_sheet(few, 100, []), contact_sheet(few, 3, []))
    assert contact_sheet(many, 100, []).shape[2] <= WIDEST < 2 * contact_sheet(many, 100, []).shape[2]


@pytest.mark.parametrize(("text", "expected"), [("0, -1", [0, 8]), ("", []), ("3,3 ,-9,", [0, 3]), ("8,-1", [8])])
def test_positions(text, expected):
    assert frame_positions(text, COUNT, "keyframes") == expected


@pytest.mark.parametrize(
    ("text", "expected", "outside"), [("9", [8], "9"), ("0, 24, 48", [0, 8], "24, 48"), ("-10, 3", [0, 3], "-10")]
)
def test_positions_outside_the_video_cost_no_video(text, expected, outside, caplog):
    assert frame_positions(text, COUNT, "keyframes") == expected
    assert f"keyframes: {outside} is outside the video, which has frames 0 to 8." in caplog.text


@pytest.mark.parametrize("text", ["first", "0; 8", "1.5"])
def test_positions_that_cannot_be(text):
    with pytest.raises(ValueError, match="keyframes: expected positions"):
        frame_positions(text, COUNT, "keyframes")


@pytest.mark.parametrize("text", ["", "0", "8, -1"])
def test_report_needs_two_keyframes(text):
    with pytest.raises(ValueError, match="keyframes: expected at least two different positions"):
        InbetweenReport.execute(square_moving(), text)


def test_ticks_are_round_and_few():
    assert ticks(1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(23.7) == pytest.approx([0, 5, 10, 15, 20])
    assert ticks(0.013) == pytest.approx([0, 0.005, 0.01])
    assert ticks(24, 12) == pytest.approx(list(range(0, 25, 2)))


def test_nodes_give_a_picture_and_show_it():
    sheet = InbetweenContactSheet.execute(square_moving(), 0, "0, -1")
    plots = InbetweenReport.execute(square_moving(), "0, -1")
    assert plots.args[0].shape == (1, 3 * HEIGHT, WIDTH, 3)
    for output in (sheet, plots):
        assert output.args[0].min() >= 0 and output.args[0].max() <= 1
        assert len(output.ui.as_dict()["images"]) == 1


def test_report_draws_what_it_measures():
    """The red ink of "distance to the last keyframe" reaches the top where that distance is largest, at frame 0."""
    frames = torch.linspace(0, 1, COUNT).reshape(-1, 1, 1, 1).expand(COUNT, 32, 32, 3)
    plots = InbetweenReport.execute(frames, "0, -1").args[0][0]
    rows, columns = torch.nonzero(near(plots[SECOND_PLOT], RED), as_tuple=True)
    assert columns[rows.argmin()] < WIDTH // 4 < 3 * WIDTH // 4 < columns[rows.argmax()]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30, 3e38])
@pytest.mark.parametrize("broken", [slice(None), slice(4, 6), slice(0, 1)])
def test_broken_frames_are_shown_as_such(value, broken, caplog):
    frames = square_moving()
    frames[broken] = value
    plots, sheet = InbetweenReport.execute(frames, "0, -1"), InbetweenContactSheet.execute(frames, 3, "0, -1")
    assert all(output.args[0].isfinite().all() for output in (plots, sheet))
    count = len(frames[broken])
    lines = [record.getMessage() for record in caplog.records]
    if abs(value) < 4e38:
        assert "colours from 0 to 1" in lines[0]
        return
    assert lines == [f"images: {count} of 9 frames hold NaN or infinity."] * 2
    # The words beside a plot's title, and each broken frame's label, are red; nothing else is.
    assert near(plots.args[0][0, :HEIGHT], WARNING).any()
    cells = [cell for row in sheet.args[0][0].chunk(3) for cell in row.chunk(3, dim=1)]
    assert [bool(near(cell, SHEET_WARNING).any()) for cell in cells] == [
        index in range(COUNT)[broken] for index in range(COUNT)
    ]


def test_numbers_beside_a_gap_are_drawn():
    """A NaN frame takes its own points, not those of the frames around it."""
    frames = torch.linspace(0, 1, COUNT).reshape(-1, 1, 1, 1).expand(COUNT, 32, 32, 3).clone()
    frames[4] = float("nan")
    plots = InbetweenReport.execute(frames, "0, -1").args[0][0]
    columns = near(plots[SECOND_PLOT], RED).any(dim=0).nonzero()[:, 0]
    assert columns.min() < WIDTH // 4 < 3 * WIDTH // 4 < columns.max()
    # One gap, from the frame before to the frame behind: two of eight steps of the axis.
    gaps = columns.diff()
    assert (gaps > 5).sum() == 1 and WIDTH // 6 < gaps.max() < WIDTH // 4


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (4, 0, 8, 3), (4, 8, 8, 2), (4, 8, 8, 0)])
def test_what_is_no_video_is_named(shape):
    for node, arguments in ((InbetweenContactSheet, (0, "")), (InbetweenReport, ("0, -1",))):
        with pytest.raises(ValueError, match=r"^images: expected pictures.*, found .*\. .*\.$"):
            node.execute(torch.zeros(shape), *arguments)


def test_preview_goes_through_the_frames(tmp_path_factory, monkeypatch):
    model, _, _ = load(tmp_path_factory.mktemp("models"))
    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.Latent2RGB)
    seen, decode = [], latent_preview.Latent2RGBPreviewer.decode_latent_to_preview

    def watched(self, x0):
        seen.append(float(x0[0].mean()))
        return decode(self, x0)

    monkeypatch.setattr(latent_preview.Latent2RGBPreviewer, "decode_latent_to_preview", watched)
    x0 = torch.arange(3.0).reshape(3, 1, 1, 1).expand(3, 4, 8, 8)
    callback = clip_preview(model, 7)
    for evaluation in range(7):
        callback(evaluation, x0, x0, 7)
    assert seen == [0, 1, 2, 0, 1, 2, 0]


def test_previews_of_other_extensions_get_all_frames(tmp_path_factory, monkeypatch):
    model, _, _ = load(tmp_path_factory.mktemp("models"))
    seen = []

    class Animated(latent_preview.LatentPreviewer):
        def decode_latent_to_preview_image(self, preview_format, x0):
            seen.append(len(x0))

    monkeypatch.setattr(latent_preview, "get_previewer", lambda device, latent_format: Animated())
    callback = clip_preview(model, 2)
    for evaluation in range(2):
        callback(evaluation, torch.zeros(3, 4, 8, 8), torch.zeros(3, 4, 8, 8), 2)
    assert seen == [3, 3]


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.uint16, torch.bool]
)
def test_sheet_and_report_of_other_number_formats(dtype):
    frames = torch.rand(5, 40, 48, 3, generator=torch.manual_seed(0)).to(dtype)
    for node, arguments in ((InbetweenContactSheet, (0, "0, -1")), (InbetweenReport, ("0, -1",))):
        expected = node.execute(frames.float(), *arguments).args[0]
        assert torch.equal(node.execute(frames, *arguments).args[0], expected)
