"""Runs the methods clip by clip and keeps every video and its measures in files, so that a stopped run goes on.

    OUT/frames/SET/METHOD/CLIP.png    the video, its frames side by side
    OUT/rows/SET/METHOD/CLIP.json     its measures

SET is `world` or `footage`.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ...common.atomic_write import atomic_write
from ...demo.world.tracker import motion_errors, speeds, track
from ...demo.world.world import difficulty
from . import metrics
from .clips import HeldOutClip, eight_bit, world_clips
from .methods import Method, Methods
from .options import keep_settings
from .peak_memory import forget_peak, peak_bytes
from .processes import share_out

PER_FRAME = ("psnr", "ssim", "lpips", "motion_error", "ghosting")


@dataclass(frozen=True)
class Job:
    """Which methods make videos of which clips, with what; it can be handed to another process.

    `sets`: (kind, function that gives a share of the clips, methods); `files`: {name of a method's weights: file};
    `settings`, `rife_enlarge` and `bf16` as for `Methods`, `runner`: it, or a benchmark's own kind of it.
    """

    out: Path
    checkpoint: Path
    files: dict[str, Path]
    methods: dict[str, Method]
    settings: dict
    sets: list[tuple[str, Callable[..., Iterator[HeldOutClip]], list[str]]]
    color_video_vdp: bool = True
    rife_enlarge: int = 1
    runner: type[Methods] = Methods
    bf16: bool = False

    def __call__(self, share: slice) -> None:
        """Makes and measures what is missing of a share of the clips."""
        color_video_vdp = metrics.ColorVideoVDP() if self.color_video_vdp else None
        with self.runner(
            self.checkpoint, self.files, self.settings, self.methods, self.rife_enlarge, self.bf16
        ) as methods:
            for kind, clips, names in self.sets:
                for clip in clips(share=share):
                    start = time.perf_counter()
                    for name in names:
                        if not row_path(self.out, kind, name, clip.name).exists():
                            measured = partial(measure, clip=clip, color_video_vdp=color_video_vdp)
                            make_row(self.out, kind, name, clip, methods, measured)
                    print(f"{kind} {clip.name}: {time.perf_counter() - start:.1f} s", flush=True)


def world_videos(
    options: argparse.Namespace,
    methods: dict[str, Method],
    names: list[str],
    clips: Callable[..., Iterator[HeldOutClip]] = world_clips,
    settings: dict | None = None,
    runner: type[Methods] = Methods,
    kept: tuple[str, ...] = (),
) -> Callable[..., Iterator[HeldOutClip]]:
    """Makes what is missing of the videos that a command of the small world asks for; the result gives their clips.

    `clips(first_seed, clips, frames, size)`: as `world_clips`; `settings`, `runner`: as for `Job`; `kept`: further
    options by which the folder is known. Raises OptionError as `keep_settings`.
    """
    known = {name: getattr(options, name) for name in ("frames", "size", "first_seed", "without_cvvdp", "bf16", *kept)}
    keep_settings(options.out, known, {"checkpoint": options.checkpoint, "backward_motion": options.backward_motion})
    chosen = partial(clips, options.first_seed, options.clips, options.frames, options.size)
    job = Job(
        options.out,
        options.checkpoint,
        {"rotated": options.backward_motion},
        methods,
        settings or {},
        [("world", chosen, names)],
        not options.without_cvvdp,
        runner=runner,
        bf16=options.bf16,
    )
    share_out(job, options.workers)
    return chosen


def make_row(
    out: Path, kind: str, name: str, clip: HeldOutClip, methods: Methods, measured: Callable[[torch.Tensor], dict]
) -> dict:
    """Makes a method's video of a clip, keeps it, and writes and returns its row.

    The row holds what `measured(frames)` says of it, and the work: seconds, and bytes of memory at the peak.
    """
    forget_peak()
    start = time.perf_counter()
    video = methods.run(name, clip)
    work = {
        "evaluations": video.evaluations,
        "unet_videos": video.unet_videos,
        "seconds": round(time.perf_counter() - start, 3),
        "peak_bytes": peak_bytes(),
    }
    _write_strip(strip(out, kind, name, clip.name), video.frames)
    row = {**measured(eight_bit(video.frames)), **work}
    write_row(row_path(out, kind, name, clip.name), row)
    return row


def write_row(path: Path, row: dict) -> None:
    """The row whole, or none."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(row), encoding="utf-8")


def measure(frames: torch.Tensor, clip: HeldOutClip, color_video_vdp: metrics.ColorVideoVDP | None) -> dict:
    """Measures of one video; lists go over the frames. What needs the true motion is absent where it is not known."""
    values = {
        "psnr": metrics.psnr(frames, clip.truth),
        "ssim": metrics.ssim(frames, clip.truth),
        "keyframe_error": metrics.keyframe_error(frames, clip.truth),
    }
    if color_video_vdp is not None:
        values["cvvdp"] = color_video_vdp(frames, clip.truth)
    if clip.world is not None:
        centres = track(frames, clip.world).centre
        values["motion_error"] = metrics.over_objects(motion_errors(centres, clip.world).numpy())
        values["speed"] = metrics.over_objects(speeds(centres, clip.world).numpy())
        values["ghosting"] = metrics.over_objects(metrics.ghosting(frames, clip.world))
    hardness = {} if clip.world is None else {"difficulty": asdict(difficulty(clip.world))}
    return row_of(values) | hardness


def row_of(values: dict[str, np.ndarray | float]) -> dict:
    """Measures as a row holds them."""
    return {name: _finite(value) for name, value in values.items()}


def _finite(value: np.ndarray | float) -> list | float | None:
    """JSON has no NaN."""
    if isinstance(value, np.ndarray):
        return [_finite(float(each)) for each in value]
    return None if math.isnan(value) else round(value, 6)


def row_path(out: Path, kind: str, name: str, clip: str) -> Path:
    """Where a video's measures are."""
    return out / "rows" / kind / name / f"{clip}.json"


def strip(out: Path, kind: str, name: str, clip: str) -> Path:
    """Where a video's frames lie side by side."""
    return out / "frames" / kind / name / f"{clip}.png"


def read_frames(out: Path, kind: str, name: str, clip: str, frames: int | None = None) -> torch.Tensor:
    """A video from its strip: `[frames, 3, h, w]` in 0…1. `frames`: how many it has, where they are not square."""
    pixels = torch.from_numpy(np.array(Image.open(strip(out, kind, name, clip)))).movedim(-1, 0).float() / 255
    return torch.stack(pixels.split(pixels.shape[2] // frames if frames else pixels.shape[1], dim=-1))


def read_rows(out: Path, kind: str, name: str, clips: list[str]) -> list[dict]:
    """The measures of a method on the clips that are there, in the order of `clips`; None has become NaN."""
    files = [row_path(out, kind, name, clip) for clip in clips]
    return [_with_nan(json.loads(file.read_text(encoding="utf-8"))) for file in files if file.exists()]


def _with_nan(value):
    if isinstance(value, dict):
        return {key: _with_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_nan(each) for each in value]
    return math.nan if value is None else value


def clip_value(row: dict, metric: str) -> float:
    """One number for a clip: the mean over its in-between frames, or the clip's own."""
    value = row.get(metric, math.nan)
    return metrics.between(np.array(value)) if metric in PER_FRAME and isinstance(value, list) else value


def _write_strip(path: Path, frames: torch.Tensor) -> None:
    pixels = (torch.cat(list(eight_bit(frames)), dim=-1) * 255).round().byte().movedim(0, -1).numpy()
    with atomic_write(path) as temporary:
        Image.fromarray(pixels).save(temporary, "PNG")
