"""Clips from a folder of videos or of frame folders."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image

VIDEO_SUFFIXES = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".gif"}
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


class NoVideos(ValueError):
    """A data folder without anything to read."""


class Unreadable(ValueError):
    """A video or frame that cannot be decoded."""


@dataclass(frozen=True)
class ClipShape:
    """How clips are cut: frames, every `stride`-th of the source, and their size in pixels."""

    frames: int
    stride: int
    width: int
    height: int
    fit: str = "crop"
    clips_per_video: int = 0

    @property
    def span(self) -> int:
        """Source frames that one clip covers."""
        return (self.frames - 1) * self.stride + 1


def find_sources(folder: Path, option: str = "--data") -> list[Path]:
    """Video files and folders of frames anywhere below a folder, sorted. Raises NoVideos naming the option."""
    folder = Path(folder)
    if not folder.is_dir():
        raise NoVideos(f"{option}: expected a folder of videos or of frame folders, but {folder} is no folder.")
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    videos = {path for path in files if path.suffix.lower() in VIDEO_SUFFIXES}
    frame_folders = {path.parent for path in files if path.suffix.lower() in IMAGE_SUFFIXES}
    if not videos and not frame_folders:
        raise NoVideos(
            f"{option}: {folder} holds no video ({', '.join(sorted(VIDEO_SUFFIXES))}) and no folder of frames "
            f"({', '.join(sorted(IMAGE_SUFFIXES))}). Put at least one there."
        )
    return sorted(videos | frame_folders)


def frame_files(folder: Path) -> list[Path]:
    """The images of a frame folder in the order of their numbers (frame2 before frame10)."""
    images = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    return sorted(
        images,
        key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name.lower())],
    )


def read_clips(source: Path, shape: ClipShape) -> Iterator[np.ndarray]:
    """Clips of one source, one after another: uint8 [frames, height, width, 3]. Raises Unreadable.

    Nothing is read beyond the last clip wanted, and one clip at a time is in memory.
    """
    frames = frame_files(source) if source.is_dir() else _video_frames(source)
    clip: list[np.ndarray] = []
    made = 0
    for number, frame in enumerate(frames):
        if number % shape.span % shape.stride == 0:
            clip.append(fit_frame(_as_image(frame), shape))
        if len(clip) == shape.frames:
            yield np.stack(clip)
            clip, made = [], made + 1
            if made == shape.clips_per_video:
                return


def fit_frame(image: Image.Image, shape: ClipShape) -> np.ndarray:
    """One frame at the clip's size, uint8 [height, width, 3]; `crop` cuts the centre of the wanted aspect."""
    width, height = image.size
    box = (0.0, 0.0, float(width), float(height))
    if shape.fit == "crop":
        scale = min(width / shape.width, height / shape.height)
        left, top = (width - shape.width * scale) / 2, (height - shape.height * scale) / 2
        box = (left, top, width - left, height - top)
    size = (shape.width, shape.height)
    if image.size == size:
        return np.asarray(image)
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS, box=box))


def _as_image(frame: av.VideoFrame | Path) -> Image.Image:
    try:
        if isinstance(frame, av.VideoFrame):
            return frame.to_image()
        with Image.open(frame) as image:
            return image.convert("RGB")
    except (av.FFmpegError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Unreadable(f"{getattr(frame, 'name', 'a frame')} cannot be decoded: {error}") from error


def _video_frames(path: Path) -> Iterator[av.VideoFrame]:
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise Unreadable("it has no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield from container.decode(stream)
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable(f"it cannot be decoded: {error}") from error
