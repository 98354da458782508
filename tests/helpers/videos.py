"""Small real videos, written by PyAV: a bright square that moves over a ground of its own."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT = 64, 48
LOSSLESS = {
    "libx264": {"qp": "0", "preset": "ultrafast", "bf": "0"},
    "libx265": {"x265-params": "lossless=1:log-level=none"},
}


def scene(frames: int, ground: int = 60, step: int = 2, square: int = 230) -> list[np.ndarray]:
    """Pictures `[48, 64, 3]` of 8 bits in which a square goes to the right by `step` pixels a frame."""
    pictures = []
    for frame in range(frames):
        picture = np.full((HEIGHT, WIDTH, 3), ground, np.uint8)
        left = (4 + frame * step) % (WIDTH - 16)
        picture[16:32, left : left + 16] = (square, square // 2, 40)
        pictures.append(picture)
    return pictures


def write_video(
    path: Path,
    pictures: Iterable[np.ndarray],
    rate: int = 24,
    codec: str = "libx264",
    pix_fmt: str = "yuv444p",
    times: list[int] | None = None,
    rotation: int = 0,
    tags: dict[str, int] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """`times`: of each picture in milliseconds, else evenly; `tags`: of the codec, such as its matrix."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={**LOSSLESS.get(codec, {}), **(options or {})})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        time_base = stream.codec_context.time_base = Fraction(1, 1000 if times else rate)
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        if rotation:
            stream.set_display_rotation(rotation)
        for index, picture in enumerate(pictures):
            frame = picture if isinstance(picture, av.VideoFrame) else av.VideoFrame.from_ndarray(picture, "rgb24")
            frame = frame.reformat(format=pix_fmt)
            for name in ("colorspace", "color_range"):
                if tags and name in tags:
                    setattr(frame, name, tags[name])
            frame.pts = times[index] if times else index
            frame.time_base = time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    """A second of silence."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
