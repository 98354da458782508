"""Match Keyframes: ends that are exactly the pictures, fades by the equation, and which pictures stand where."""

import math

import pytest
import torch
from generative_inbetweening.common.live_bytes import LiveBytes
from generative_inbetweening.nodes import InbetweenKeyframe, InbetweenMatchKeyframes, InbetweenMiddleKeyframe
from generative_inbetweening.sampler.keyframes import fit_picture
from generative_inbetweening.sequence.match_keyframes import TOLERANCE, blurred, fade_weights, match_keyframes

HEIGHT, WIDTH, COUNT = 48, 64, 9


def picture(seed: int, height: int = HEIGHT, width: int = WIDTH, channels: int = 3) -> torch.Tensor:
    return torch.rand(1, height, width, channels, generator=torch.manual_seed(seed))


def still(count: int = COUNT) -> torch.Tensor:
    """A textured picture that does not move, `[count, 48, 64, 3]` in 0.2…0.8."""
    return (0.2 + 0.6 * picture(0)).repeat(count, 1, 1, 1)


def matched(images: torch.Tensor, frames: int = 12, fit: str = "crop", lengths: str = "25", **pictures) -> torch.Tensor:
    return InbetweenMatchKeyframes.execute(images, frames, fit, lengths, **pictures).args[0]


THREE = torch.cat([picture(number) for number in (1, 2, 3)])


def chain(*keyframes: tuple[torch.Tensor, int, float]):
    found = {}
    for keyframe in keyframes:
        found = {"keyframes": InbetweenKeyframe.execute(*keyframe, **found).args[0]}
    return found["keyframes"]


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (100, 70), (20, 90)])
def test_ends_are_the_fitted_pictures_bit_for_bit(fit, size):
    first, last = picture(1, *size), picture(2, *size)
    images = still()
    before = images.clone()
    result = matched(images, fit=fit, first_keyframe=first, last_keyframe=last)
    assert result.shape == images.shape and torch.equal(images, before)
    for end, given in ((result[0], first), (result[-1], last)):
        assert torch.equal(end, fit_picture(given, WIDTH, HEIGHT, fit)[0])


def test_frames_follow_the_equation():
    """Σ w (c + s d), with the Gaussian as a plain matrix; no side is reduced at this size."""

    def blur_matrix(length: int) -> torch.Tensor:
        sigma = HEIGHT / 16
        distances = (torch.arange(length)[:, None] - torch.arange(length)).double()
        weights = torch.exp(-(distances**2) / (2 * sigma**2)) * (distances.abs() <= math.ceil(3 * sigma))
        return weights / weights.sum(dim=1, keepdim=True)

    def blur(values: torch.Tensor) -> torch.Tensor:
        return torch.einsum("ij,jkc,lk->ilc", blur_matrix(HEIGHT), values.double(), blur_matrix(WIDTH))

    images = still() + 0.1 * torch.randn(COUNT, HEIGHT, WIDTH, 3, generator=torch.manual_seed(3))
    images = images.clamp(0.1, 0.9)
    ends = {0: images[:1] + 0.05 * picture(4), COUNT - 1: images[-1:] - 0.05 * picture(5)}
    result = matched(images, 5, first_keyframe=ends[0], last_keyframe=ends[COUNT - 1])
    for number in range(1, COUNT - 1):
        wanted = images[number].double()
        for place, given in ends.items():
            distance = abs(number - place)
            w = (1 + math.cos(math.pi * min(1, distance / 5))) / 2
            difference = (given[0] - images[place]).double()
            colour = blur(difference)
            apart = (images[number] - images[place]).square().mean(dim=-1, keepdim=True)
            s = torch.exp(-blur(apart) / (2 * TOLERANCE**2))
            wanted = wanted + w * (colour + s * (difference - colour))
        assert (result[number] - wanted).abs().max() < 1e-5


def test_a_change_of_the_whole_still_video_is_undone_everywhere():
    """Where both fades meet their weights sum to 1."""
    truth = still()
    result = matched(truth + 0.05, 100, first_keyframe=truth[:1], last_keyframe=truth[-1:])
    assert (result - truth).abs().max() < 1e-5


def test_large_frames_are_blurred_as_small_ones():
    """The blur of a larger picture is that of the smaller one, enlarged."""
    small = blurred(picture(6, 64, 80, 3)[0])
    large = blurred(picture(6, 64, 80, 3)[0].repeat_interleave(4, 0).repeat_interleave(4, 1))
    inside = slice(4, -4)
    assert (large[2::4, 2::4][inside, inside] - small[inside, inside]).abs().max() < 0.02


def test_detail_comes_back_where_nothing_moved_and_leaves_no_ghost():
    """A bright square goes to the right over a plain wall; the ground has texture; the model blurred everything."""
    truth = still()
    truth[:, :40] = 0.3
    for number in range(COUNT):
        truth[number, 12:28, 4 + 6 * number : 12 + 6 * number] = 1.0
    images = torch.nn.functional.avg_pool2d(truth.movedim(-1, 1), 3, 1, 1, count_include_pad=False).movedim(1, -1)
    ends, beside = {0: truth[:1], COUNT - 1: truth[-1:]}, 3
    gated = (match_keyframes(images, ends, 12)[beside] - truth[beside]).abs()
    everywhere = (match_keyframes(images, ends, 12, tolerance=math.inf)[beside] - truth[beside]).abs()
    before = (images[beside] - truth[beside]).abs()
    ground, left = slice(41, 48), (slice(8, 32), slice(2, 16))
    assert gated[ground].mean() < 0.1 * before[ground].mean()
    # Where the square stood in frame 0, its edge would be a ghost.
    assert gated[left].mean() < 0.3 * everywhere[left].mean()
    # The frame beside a keyframe that was only replaced keeps all of its error.
    assert torch.equal(match_keyframes(images, ends, 1)[beside], images[beside])


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("fade", [1, 2, 5, 100])
@pytest.mark.parametrize("places", [[0], [8], [4], [0, 8], [0, 3, 8], [0, 1, 2]])
def test_weights_are_one_at_a_keyframe_and_fade_to_nothing_at_the_next(places, fade, loop):
    for number in range(COUNT):
        weights = fade_weights(number, places, COUNT, fade, loop)
        assert all(0 <= w <= 1 + 1e-9 for w in weights.values()) and sum(weights.values()) <= 1 + 1e-9
        if number in places:
            assert weights == {number: 1}
    if len(places) > 1 and fade >= 100:
        assert sum(fade_weights(places[0] + 1, places, COUNT, fade, loop).values()) == pytest.approx(1)
    reached = [number for number in range(COUNT) if fade_weights(number, places, COUNT, fade, loop)]
    around = {(place + turn) % COUNT for place in places for turn in range(1 - fade, fade)} if loop else None
    assert around is None or set(reached) <= around


def test_a_loop_fades_over_its_seam_and_another_video_does_not():
    assert fade_weights(COUNT - 1, [0], COUNT, 4, loop=True)[0] == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert fade_weights(COUNT - 1, [0], COUNT, 4, loop=False) == {}


def test_frames_beyond_the_fade_and_an_end_without_a_picture_stay_as_they_are():
    images = still() + 0.1 * picture(7)
    result = matched(images, 3, first_keyframe=picture(1))
    changed = [not torch.equal(ours, theirs) for ours, theirs in zip(result, images, strict=True)]
    assert changed == [number < 3 for number in range(COUNT)]
    assert torch.equal(matched(images, 100, last_keyframe=picture(1))[0], images[0])
    only = matched(images, 1, first_keyframe=picture(1), last_keyframe=picture(2))
    assert torch.equal(only[1:-1], images[1:-1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_number_formats(dtype):
    images, first = still(), picture(1)
    result = matched(images.to(dtype), first_keyframe=first.to(dtype))
    assert result.dtype == torch.float32 and torch.equal(result[0], first.to(dtype)[0].float())
    assert torch.equal(result[-1], images.to(dtype)[-1].float())
    assert (result - matched(images, first_keyframe=first)).abs().max() < 0.03


def test_grey_and_transparent_frames_and_pictures():
    first, alpha = picture(1), picture(8, channels=1)
    images = still()
    transparent = matched(torch.cat([images, alpha.repeat(COUNT, 1, 1, 1)], dim=-1), first_keyframe=first)
    assert torch.equal(transparent[..., :3], matched(images, first_keyframe=first))
    assert torch.equal(transparent[..., 3:], alpha.repeat(COUNT, 1, 1, 1))
    grey = matched(images[..., :1], first_keyframe=torch.cat([first, alpha], dim=-1))
    assert torch.equal(grey, matched(images[..., :1].expand(-1, -1, -1, 3), first_keyframe=first))


def test_a_long_video_takes_little_more_memory_than_its_result():
    images = still(120)
    with LiveBytes([images]) as live:
        matched(images, first_keyframe=picture(1), last_keyframe=picture(2))
    assert live.peak < 1.5 * images.nbytes


def of_sequence(images, **inputs) -> dict[int, int]:
    """{frame: which of the pictures 1 to 3 it is} of the result."""
    result = matched(images, 1, **inputs)
    pictures = {number: picture(number)[0] for number in (1, 2, 3)}
    return {
        place: number
        for place, frame in enumerate(result)
        for number, given in pictures.items()
        if torch.equal(frame, given)
    }


@pytest.mark.parametrize(
    ("lengths", "count", "places"),
    [
        ("5", 9, {0: 1, 4: 2, 8: 3}),
        ("5, 4", 8, {0: 1, 4: 2, 7: 3}),
        ("5", 12, {0: 1, 4: 2, 8: 3}),
        ("5", 13, {0: 1, 4: 2, 8: 3, 12: 1}),
        ("3, 4, 5", 10, {0: 1, 2: 2, 5: 3, 9: 1}),
        ("2", 3, {0: 1, 1: 2, 2: 3}),
    ],
)
def test_keyframes_of_a_sequence_of_a_loop_and_of_a_closed_loop(lengths, count, places):
    assert of_sequence(still(count), keyframes=THREE, lengths=lengths) == places


def test_keyframes_of_a_chain_have_their_own_distances_and_sizes():
    wide = torch.nn.functional.interpolate(picture(2).movedim(-1, 1), scale_factor=2).movedim(1, -1)
    keyframes = chain((picture(1), 5, 1.0), (picture(3), 3, 0.5), (wide, 4, 1.0), (picture(3), 25, 1.0))
    result = matched(still(10), 1, keyframes=keyframes)
    assert torch.equal(result[6], fit_picture(wide, WIDTH, HEIGHT, "crop")[0])
    # The one of strength 0.5 is led to, not shown.
    assert of_sequence(still(10), keyframes=keyframes) == {0: 1, 9: 3}


def test_own_ends_come_before_those_of_the_sequence_and_middle_keyframes_count():
    batch = torch.cat([picture(4), picture(2), picture(5)])
    ends = {"first_keyframe": picture(1), "last_keyframe": picture(3)}
    assert of_sequence(still(), keyframes=batch, lengths="5", **ends) == {0: 1, 4: 2, 8: 3}
    (middle,) = InbetweenMiddleKeyframe.execute(picture(2), 3, 1.0).args
    (middle,) = InbetweenMiddleKeyframe.execute(picture(3), 5, 0.9, middle).args
    assert of_sequence(still(), middle_keyframes=middle) == {3: 2}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_frame_stays_and_a_broken_keyframe_is_healed(value, caplog):
    images = still()
    images[0], images[4] = value, value
    result = matched(images, first_keyframe=picture(1), last_keyframe=images[-1:])
    assert torch.equal(result[0], picture(1)[0]) and not result[4].isfinite().any()
    assert torch.equal(result[1:4], images[1:4])
    assert [record.getMessage() for record in caplog.records] == ["images: 2 of 9 frames hold NaN or infinity."]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "first_keyframe: expected a picture here, at last_keyframe, keyframes or middle_keyframes, found none"),
        ({"images": picture(0).repeat(2, 1, 1, 1), "last_keyframe": picture(1)}, "images: expected at least 3 frames"),
        ({"images": picture(0, channels=2), "last_keyframe": picture(1)}, "images: expected frames of shape"),
        ({"images": 255 * still(), "last_keyframe": picture(1)}, "images: expected colours from 0 to 1, found"),
        ({"first_keyframe": picture(1).repeat(2, 1, 1, 1)}, "first_keyframe: expected one picture, found 2"),
        ({"last_keyframe": picture(1) * float("nan")}, "last_keyframe: expected colours from 0 to 1, found NaN"),
        (
            {"images": still(11), "keyframes": THREE, "lengths": "4"},
            "images: expected the frames of a sequence .*, 7 or 9 or 10, found 11",
        ),
        ({"keyframes": THREE, "lengths": "4, 4, 4, 4"}, "frames_per_segment: expected one number or 2"),
        ({"keyframes": THREE, "lengths": "x"}, "frames_per_segment: expected one number"),
        (
            {"keyframes": chain((picture(1), 9, 0.5), (picture(2), 9, 1.0))},
            "keyframes: expected strength 1 of the first",
        ),
        (
            {"middle_keyframes": InbetweenMiddleKeyframe.execute(picture(1), 8, 1.0).args[0]},
            "middle_keyframes: expected",
        ),
    ],
)
def test_what_cannot_be_is_named(changes, message):
    values = {"images": still(), **changes}
    with pytest.raises(ValueError, match=f"^{message}"):
        matched(**values)
