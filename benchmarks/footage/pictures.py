"""Real footage to look at: contact sheet and side-by-side video of each clip, plots over frames and over seconds."""

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.codec import Codec, codecs_available
from PIL import Image, ImageDraw

from ...common.atomic_write import atomic_write
from ...inspection.pictures import font, to_picture

_CELL, _LEAST = 320, 192
"""Pixels: a cell's width at most; smaller frames are enlarged, by a whole number, to at least so much."""
_TILE, _COLUMNS = 192, 9
_CAPTION, _GAP, _LETTERS = 22, 4, 14
_PAPER, _INK = (24, 24, 24), (230, 230, 230)
_HOLD = 0.7
"""Seconds for which the keyframes stand still."""
_SLOWEST, _FASTEST = 5, 15
"""Frames a second of the side-by-side video: slow enough to see what is between the keyframes."""
_ENCODERS = {"libx264": {"crf": "18", "preset": "medium"}, "mpeg4": {"qscale": "3"}}
"""In the order in which they are tried."""


def reduced(video: torch.Tensor) -> torch.Tensor:
    """`[frames, 3, h, w]`, no wider than what is shown of it: many videos are held at once."""
    height, width = video.shape[-2:]
    if width <= _CELL:
        return video
    return F.interpolate(video, (max(1, round(height * _CELL / width)), _CELL), mode="area")


def contact_sheet(path: Path, videos: dict[str, torch.Tensor]) -> None:
    """{caption: `[frames, 3, h, w]` in 0…1} below each other, at most 9 frames of each, evenly over the clip."""
    frames, _, height, width = next(iter(videos.values())).shape
    shown = np.unique(np.linspace(0, frames - 1, _COLUMNS).round().astype(int)).tolist()
    size = _TILE, max(1, round(_TILE * height / width))
    row = size[1] + _CAPTION
    sheet = Image.new("RGB", (len(shown) * (size[0] + _GAP) + _GAP, (row + _GAP) * len(videos) + _CAPTION), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, frame in enumerate(shown):
        label = f"{frame}  keyframe" if frame in (0, frames - 1) else f"{frame}"
        draw.text((_GAP + column * (size[0] + _GAP), 2), label, fill=_INK, font=font(_LETTERS))
    for number, (caption, video) in enumerate(videos.items()):
        top = _CAPTION + number * (row + _GAP)
        draw.text((_GAP, top + 2), caption, fill=_INK, font=font(_LETTERS))
        for column, frame in enumerate(shown):
            tile = _picture(video[frame]).resize(size, Image.Resampling.LANCZOS)
            sheet.paste(tile, (_GAP + column * (size[0] + _GAP), top + _CAPTION))
    with atomic_write(path) as temporary:
        sheet.save(temporary, "PNG")


def side_by_side(path: Path, videos: dict[str, torch.Tensor], rate: float) -> Path:
    """The videos beside each other, each with its caption, as mp4, or as GIF where PyAV has no encoder for it.

    `path` without suffix; `rate`: frames a second of the clip, which plays slower where it is very fast. The path that
    was written is returned.
    """
    rate = min(max(rate, _SLOWEST), _FASTEST)
    for encoder, options in _ENCODERS.items():
        if encoder in codecs_available and _encodes(encoder):
            target = path.with_name(path.name + ".mp4")
            with atomic_write(target) as temporary:
                _write_mp4(temporary, encoder, options, _side_by_side(videos), rate)
            return target
    target = path.with_name(path.name + ".gif")
    first, *others = (Image.fromarray(picture) for picture in _side_by_side(videos))
    holds = {0, len(others)}
    times = [round(1000 * (_HOLD if index in holds else 1 / rate)) for index in range(len(others) + 1)]
    with atomic_write(target) as temporary:
        first.save(temporary, "GIF", save_all=True, append_images=others, duration=times, loop=0)
    return target


def _side_by_side(videos: dict[str, torch.Tensor]) -> Iterator[np.ndarray]:
    """Each picture `[h, w, 3]` with 8 bits; both sides even, as encoders want them."""
    frames, _, height, width = next(iter(videos.values())).shape
    scale = min(1.0, _CELL / width) if width >= _LEAST else math.ceil(_LEAST / width)
    size = round(width * scale), round(height * scale)
    cell = size[0] + _GAP, size[1] + _CAPTION + _GAP
    columns = max(1, min(len(videos), round(math.sqrt(len(videos) * cell[1] / cell[0] * 16 / 9))))
    rows = math.ceil(len(videos) / columns)
    whole = (columns * cell[0] + _GAP + 1) // 2 * 2, (rows * cell[1] + _GAP + 1) // 2 * 2
    for frame in range(frames):
        picture = Image.new("RGB", whole, _PAPER)
        draw = ImageDraw.Draw(picture)
        for number, (caption, video) in enumerate(videos.items()):
            left, top = _GAP + number % columns * cell[0], _GAP + number // columns * cell[1]
            draw.text((left, top), _cut(draw, caption, size[0]), fill=_INK, font=font(_LETTERS))
            picture.paste(_picture(video[frame]).resize(size, Image.Resampling.BICUBIC), (left, top + _CAPTION))
        yield np.asarray(picture)


def _write_mp4(path: Path, encoder: str, options: dict, pictures: Iterator[np.ndarray], rate: float) -> None:
    frame_rate = Fraction(rate).limit_denominator(1000)
    hold = max(1, round(_HOLD * rate))
    with av.open(str(path), "w", format="mp4") as container:
        stream = None
        kept = list(pictures)
        for index, picture in enumerate(kept):
            if stream is None:
                stream = container.add_stream(encoder, rate=frame_rate, options=options)
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "yuv420p"
            for _ in range(hold if index in (0, len(kept) - 1) else 1):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        if stream is not None:
            container.mux(stream.encode())


def _encodes(encoder: str) -> bool:
    try:
        return Codec(encoder, "w") is not None
    except (ValueError, av.FFmpegError):
        return False


def _cut(draw: ImageDraw.ImageDraw, caption: str, width: int) -> str:
    """The caption, shortened until it fits."""
    while caption and draw.textlength(caption, font=font(_LETTERS)) > width:
        caption = caption[:-2].rstrip("… ") + "…" if len(caption) > 2 else ""
    return caption


def _picture(frame: torch.Tensor) -> Image.Image:
    return to_picture(frame.movedim(0, -1))


def plot_over_frames(path: Path, methods: dict[str, dict]) -> None:
    """Mean quality of each frame between the keyframes, one panel a metric."""
    # Only those who have the benchmarks' packages draw plots.
    from matplotlib.figure import Figure

    from ..common.pictures import save_figure

    titles = {"psnr": "PSNR, dB", "ssim": "SSIM", "ghosting": "ghosting", "lpips": "LPIPS"}
    panels = [metric for metric in titles if any(metric in each["per_frame"] for each in methods.values())]
    if not panels:
        return
    figure = Figure(figsize=(5 * len(panels), 4.5), layout="constrained")
    for axis, metric in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        for number, each in enumerate(methods.values()):
            inner = list(enumerate(each["per_frame"].get(metric, [])))[1:-1]
            values = [(frame, value) for frame, value in inner if value is not None]
            if values:
                axis.plot(*zip(*values), marker=".", linestyle=("-", "--")[number // 10 % 2], label=each["label"])
        axis.set(xlabel="frame", ylabel=titles[metric])
        axis.grid(alpha=0.3)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    save_figure(figure, path)


def plot_over_seconds(path: Path, methods: dict[str, dict]) -> None:
    """Quality over the seconds that a clip takes: ColorVideoVDP, or PSNR where it was left out."""
    from matplotlib.figure import Figure

    from ..common.pictures import save_figure

    has_vdp = any("cvvdp" in each for each in methods.values())
    metric, title = ("cvvdp", "ColorVideoVDP, JOD") if has_vdp else ("psnr", "PSNR, dB")
    figure = Figure(figsize=(9, 5), layout="constrained")
    axis = figure.subplots()
    for number, each in enumerate(methods.values()):
        value = each.get(metric)
        if value is None or value["mean"] is None:
            continue
        bars = [[value["mean"] - value["low"]], [value["high"] - value["mean"]]]
        seconds, marker = max(each["seconds"], 0.01), "os"[number // 10 % 2]
        axis.errorbar([seconds], [value["mean"]], bars, marker=marker, capsize=3, linestyle="", label=each["label"])
    axis.set(xlabel="seconds a clip", ylabel=title, xscale="log")
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    save_figure(figure, path)
