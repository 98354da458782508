"""Which clips are cut from the user's videos: the same ones every time, and the same ones first when more are asked.

The videos take turns, so that the first clips are of as many videos as there are. What was chosen, and what was left
out for which reason, is kept in `clips.json`.
"""

import json
import re
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from ...common.atomic_write import write_json
from ...sampler.keyframes import fit_picture
from ..common.clips import HeldOutClip, eight_bit
from ..common.options import OptionError
from .videos import Unusable, Video, find, opened
from .windows import ClipLength, windows

# Two times of one frame: they are read from the same file in the same way.
_SAME_TIME = 1e-4
_SEEDS = 2**32


@dataclass(frozen=True)
class FootageClip:
    """`file`: below the folder; `bytes`: its size; `times` in seconds from its first frame, one for each frame."""

    name: str
    file: str
    bytes: int
    times: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Frames a second."""
        return (len(self.times) - 1) / (self.times[-1] - self.times[0])

    @property
    def seed(self) -> int:
        """Of its noise: the same whichever other clips there are."""
        return zlib.crc32(self.name.encode()) % _SEEDS


@dataclass(frozen=True)
class Selection:
    """The clips in the order of the work; `skipped`, `remarks`: {file: why, or what was done to it}."""

    clips: list[FootageClip]
    skipped: dict[str, str] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)


def select(folder: Path, count: int, length: ClipLength, kept: Path) -> Selection:
    """At most `count` clips; `kept`: the file that remembers them, so that a run that goes on need not look again.

    Raises OptionError when no video can be used, or when one was exchanged since.
    """
    paths = {path.relative_to(folder).as_posix(): path for path in find(folder)}
    known = _read(kept)
    sizes = {file: _size(path) for file, path in paths.items()}
    asked = {"files": sizes, "length": asdict(length)}
    if known and known["asked"] == asked and (len(known["clips"]) >= count or known["exhausted"]):
        selection = _selection(known)
        return Selection(selection.clips[:count], selection.skipped, selection.remarks)
    selection, exhausted = _look(folder, paths, count, length)
    _refuse_exchanged(known, selection)
    write_json(kept, {"asked": asked, "exhausted": exhausted, **asdict(selection)})
    return selection


def read(folder: Path, clip: FootageClip, width: int, height: int) -> HeldOutClip:
    """The clip's frames, cropped at the centre to the shape of the video and resized. Raises OptionError."""
    path = folder / clip.file
    try:
        frames = _frames(path, clip, width, height, clip.times[0])
        # What cannot be sought exactly is read from its beginning.
        frames = _frames(path, clip, width, height, 0.0) if frames is None else frames
    except Unusable as error:
        raise OptionError(f"--footage: {clip.file} {error}.") from error
    if frames is None:
        raise OptionError(f"--footage: expected {clip.file} as it was when its clips were chosen, found another.")
    return HeldOutClip(clip.name, clip.seed, eight_bit(frames))


def _frames(path: Path, clip: FootageClip, width: int, height: int, start: float) -> torch.Tensor | None:
    """`[frames, 3, h, w]`; None where not all of the times are found from `start` on."""
    found, wanted = [], list(clip.times)
    for frame in opened(path).frames(start):
        if frame.time > wanted[0] + _SAME_TIME:
            return None
        if abs(frame.time - wanted[0]) <= _SAME_TIME:
            found.append(fit_picture(frame.picture(), width, height, "crop")[0].movedim(-1, 0))
            wanted.pop(0)
            if not wanted:
                return torch.stack(found)
    return None


def _look(folder: Path, paths: dict[str, Path], count: int, length: ClipLength) -> tuple[Selection, bool]:
    """The clips, and whether there are no more in any video."""
    clips: list[FootageClip] = []
    skipped: dict[str, str] = {}
    names = _names(list(paths))
    videos, turns = {}, {}
    for file, path in paths.items():
        video = _opened(path, file, skipped)
        if video is not None:
            videos[file], turns[file] = video, windows(video, length)
    while turns and len(clips) < count:
        for file in list(turns):
            if len(clips) == count:
                break
            try:
                times = next(turns[file], None)
            except Unusable as error:
                times, skipped[file] = None, str(error)
            if times is None:
                del turns[file]
                continue
            name = f"{names[file]}-{round(1000 * times[0]):07d}"
            clips.append(FootageClip(name, file, videos[file].bytes, times))
    if not clips:
        reasons = "".join(f"\n  {file} {reason}" for file, reason in sorted(skipped.items()))
        raise OptionError(f"--footage: expected videos that clips can be cut from in {folder}, found none:{reasons}")
    remarks = {file: "; ".join(sorted(video.remarks)) for file, video in videos.items() if video.remarks}
    used = {clip.file for clip in clips}
    skipped = {file: reason for file, reason in skipped.items() if file not in used}
    return Selection(clips, skipped, {file: words for file, words in remarks.items() if file not in skipped}), not turns


def _opened(path: Path, file: str, skipped: dict[str, str]) -> Video | None:
    try:
        return opened(path)
    except Unusable as error:
        skipped[file] = str(error)
        return None


def _names(files: list[str]) -> dict[str, str]:
    """{file: a name for its clips, which can be a file's name}."""
    names: dict[str, str] = {}
    for file in files:
        plain = re.sub(r"[^0-9A-Za-z_]+", "_", str(Path(file).with_suffix(""))).strip("_")[:60] or "video"
        taken = set(names.values())
        numbered = (f"{plain}_{number}" for number in range(2, len(files) + 2))
        names[file] = plain if plain not in taken else next(name for name in numbered if name not in taken)
    return names


def _size(path: Path) -> int:
    try:
        return opened(path).bytes if path.is_dir() else path.stat().st_size
    except Unusable:
        return -1


def _read(path: Path) -> dict | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _selection(kept: dict) -> Selection:
    clips = [FootageClip(**{**each, "times": tuple(each["times"])}) for each in kept["clips"]]
    return Selection(clips, kept["skipped"], kept["remarks"])


def _refuse_exchanged(known: dict | None, selection: Selection) -> None:
    """Raises OptionError when clips of a name that has results are cut from another file now."""
    before = {clip.name: clip for clip in _selection(known).clips} if known else {}
    for clip in selection.clips:
        if before.get(clip.name, clip) != clip:
            raise OptionError(
                f"--footage: expected {clip.file} as it was when the results in --out were made, found another. "
                "Choose another --out."
            )
