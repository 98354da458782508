"""The user's videos: which there are in a folder, and their frames with the time of each.

A video is a file that PyAV reads, or a folder of pictures, as the DAVIS data set has them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.container import InputContainer
from av.stream import Disposition
from PIL import Image

from ..common.options import OptionError
from .colours import TRANSFERS, rgb, transfer

SUFFIXES = frozenset(
    (
        *(".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h264", ".h265", ".hevc", ".ivf"),
        *(".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".nut"),
        *(".obu", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
    )
)
"""How the names of video files end; what else lies in the folder is left alone."""
PICTURES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"))
PICTURES_RATE = 24
"""Pictures a second of a folder of pictures, which does not say when each was taken."""
SMALL = 64, 36
"""Width and height of the pictures in which cuts are looked for."""
# A keyframe of the file before a place that is sought may have a later time than the file's index says.
_EARLIER = 1.0


class Unusable(Exception):
    """Why a video cannot be used, in words for the user."""


@dataclass(frozen=True)
class Frame:
    """`time` in seconds; `whole`: decoded without damage, and nothing is missing before it.

    `picture()`: upright, square pixels, `[1, h, w, 3]` in 0…1; `small()`: 64 × 36 pixels, `[36, 64, 3]` in 0…1.
    """

    time: float
    whole: bool
    picture: Callable[[], torch.Tensor]
    small: Callable[[], np.ndarray]


class VideoFile:
    """A file. Raises Unusable when it cannot be opened or holds no moving picture."""

    def __init__(self, path: Path):
        self.path = path
        self.remarks: set[str] = set()
        with self._opened() as container:
            stream = self._stream(container)
            lengths = (container.duration and container.duration / av.time_base, _seconds(stream.duration, stream))
            self.duration = next((length for length in lengths if length), None)
            self._aspect = float(stream.sample_aspect_ratio or 1)
            self._rate = float(stream.average_rate or stream.base_rate or 25)
            self._start = _seconds(stream.start_time, stream) or 0.0

    @property
    def bytes(self) -> int:
        """By which it is known again."""
        return self.path.stat().st_size

    def frames(self, start: float = 0.0) -> Iterator[Frame]:
        """All frames from about `start` on, in seconds from the first one, in the order in which they are shown.

        Damaged parts are left out; the frame after them is not `whole`. Raises Unusable for interlaced frames.
        """
        with self._opened() as container:
            stream = self._stream(container)
            stream.thread_type = "AUTO"
            if start > _EARLIER:
                start = self._sought(container, stream, start)
            time, whole = start - 1 / self._rate, True
            for decoded in _decoded(container, stream):
                if decoded is None or decoded.is_corrupt:
                    whole = False
                    self.remarks.add("damaged in places: what decodes is used")
                    continue
                time = time + 1 / self._rate if decoded.time is None else float(decoded.time) - self._start
                self._look_at(decoded)
                yield Frame(time, whole, lambda kept=decoded: self._upright(kept), lambda kept=decoded: _small(kept))
                whole = True
            if self.duration is not None and 0 < time < self.duration - _EARLIER:
                self.remarks.add(f"ends after {time:.1f} of its {self.duration:.1f} seconds: what is there is used")

    def _opened(self) -> InputContainer:
        try:
            return av.open(str(self.path))
        except (av.FFmpegError, ValueError, OSError) as error:
            raise Unusable(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error

    def _stream(self, container: InputContainer) -> av.VideoStream:
        # The picture on a song's cover is a video stream, too.
        streams = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
        if not streams:
            raise Unusable("has sound but no moving picture" if container.streams.audio else "has no moving picture")
        if streams[0].codec_context is None:
            raise Unusable("is in a format that this PyAV cannot decode")
        return streams[0]

    def _sought(self, container: InputContainer, stream: av.VideoStream, start: float) -> float:
        """Where the container stands now: near `start`, or at the beginning of what has no index."""
        try:
            container.seek(int((start - _EARLIER + self._start) / float(stream.time_base or 1)), stream=stream)
        except (av.FFmpegError, OSError):
            return 0.0
        return start

    def _look_at(self, frame: av.VideoFrame) -> None:
        if frame.interlaced_frame:
            raise Unusable("is interlaced: make it progressive first (ffmpeg -vf bwdif)")
        if transfer(frame) in TRANSFERS:
            self.remarks.add(f"{TRANSFERS[transfer(frame)]}: brought down to an ordinary screen")
        if frame.rotation:
            self.remarks.add("turned upright as its metadata say")

    def _upright(self, frame: av.VideoFrame) -> torch.Tensor:
        picture = torch.from_numpy(rgb(frame))[None]
        if not 0.999 < self._aspect < 1.001:
            size = picture.shape[1], round(picture.shape[2] * self._aspect)
            stretched = F.interpolate(picture.movedim(-1, 1), size, mode="bicubic", antialias=True).clamp(0, 1)
            picture = stretched.movedim(1, -1)
        # Metadata turn by quarters; the angle is anticlockwise, as torch's.
        return torch.rot90(picture, round((frame.rotation or 0) / 90), (1, 2)).contiguous()


class PictureFolder:
    """A folder of pictures as a video of 24 frames a second, in the order of their names."""

    duration = None

    def __init__(self, path: Path):
        self.path = path
        self.remarks = {f"pictures, taken for {PICTURES_RATE} a second"}
        self._pictures = sorted(each for each in path.iterdir() if _is_picture(each))

    @property
    def bytes(self) -> int:
        """By which it is known again."""
        return sum(each.stat().st_size for each in self._pictures)

    def frames(self, start: float = 0.0) -> Iterator[Frame]:
        """As those of a file. Raises Unusable for pictures of several sizes."""
        size, whole = None, True
        for index, path in enumerate(self._pictures):
            if index / PICTURES_RATE < start - 1e-6:
                continue
            try:
                with Image.open(path) as opened:
                    picture = np.asarray(opened.convert("RGB"))
            except OSError:
                whole = False
                self.remarks.add("damaged in places: what can be read is used")
                continue
            if size not in (None, picture.shape):
                raise Unusable(f"holds pictures of several sizes ({path.name} has another than those before)")
            size = picture.shape
            yield Frame(
                index / PICTURES_RATE,
                whole,
                lambda kept=picture: torch.from_numpy(kept.astype(np.float32) / 255)[None],
                lambda kept=picture: np.asarray(Image.fromarray(kept).resize(SMALL), np.float32) / 255,
            )
            whole = True


Video = VideoFile | PictureFolder


def find(folder: Path) -> list[Path]:
    """Video files and folders of pictures in the folder and below it, in the order of their names.

    Raises OptionError when there is no such folder, or none in it.
    """
    if not folder.is_dir():
        found = "a file: give the folder that it lies in" if folder.exists() else "nothing"
        raise OptionError(f"--footage: expected a folder of videos at {folder}, found {found}.")
    paths = [path for path in sorted(folder.rglob("*")) if not _hidden(path.relative_to(folder))]
    folders = [path for path in (folder, *paths) if path.is_dir() and _holds_a_video(path)]
    videos = [path for path in paths if path.is_file() and path.suffix.lower() in SUFFIXES]
    if not videos and not folders:
        raise OptionError(
            f"--footage: expected videos in {folder} (.mp4, .mov, .mkv, .webm and others, or folders of pictures), "
            f"found none among {sum(path.is_file() for path in paths)} files."
        )
    return sorted([*videos, *folders])


def opened(path: Path) -> Video:
    """The video at a path that `find` found. Raises Unusable."""
    return PictureFolder(path) if path.is_dir() else VideoFile(path)


def _holds_a_video(folder: Path) -> bool:
    return sum(map(_is_picture, folder.iterdir())) > 1


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES and not path.name.startswith(".") and path.is_file()


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _seconds(count: int | None, stream: av.VideoStream) -> float | None:
    return None if count is None or stream.time_base is None else float(count * stream.time_base)


def _decoded(container: InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame | None]:
    """The frames; None where something could not be decoded."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, EOFError):
            return
        except av.FFmpegError:
            # Without an index nothing is found behind a place that cannot be read.
            yield None
            return
        try:
            yield from packet.decode()
        except EOFError:
            return
        except av.FFmpegError:
            yield None


def _small(frame: av.VideoFrame) -> np.ndarray:
    width, height = SMALL
    return frame.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray().astype(np.float32) / 255
