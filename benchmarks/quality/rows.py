"""Runs the methods clip by clip and keeps every video and its measures in files, so that a stopped run goes on.

    OUT/frames/SET/METHOD/CLIP.png    the video, its frames side by side
    OUT/rows/SET/METHOD/CLIP.json     its measures

SET is `world` or `footage`.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ...common.atomic_write import atomic_write
from ..common import metrics
from .clips import HeldOutClip, eight_bit
from .methods import Methods, Video

PER_FRAME = ("psnr", "ssim", "motion_error", "ghosting")


def make_rows(
    out: Path,
    kind: str,
    clips: Iterator[HeldOutClip],
    methods: Methods,
    names: list[str],
    color_video_vdp: metrics.ColorVideoVDP | None,
    report: Callable[[str], None],
) -> None:
    """Makes and measures what is missing of each method's videos of the clips."""
    for clip in clips:
        start = time.perf_counter()
        for name in names:
            row = out / "rows" / kind / name / f"{clip.name}.json"
            if row.exists():
                continue
            began = time.perf_counter()
            video = methods.run(name, clip)
            seconds = time.perf_counter() - began
            write_strip(out / "frames" / kind / name / f"{clip.name}.png", video.frames)
            values = measure(eight_bit(video.frames), clip, color_video_vdp)
            _write_whole(row, json.dumps({**values, **work_of(video), "seconds": round(seconds, 3)}).encode())
        report(f"{kind} {clip.name}: {time.perf_counter() - start:.1f} s")


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
        values["motion_error"] = metrics.motion_errors(frames, clip.world)
        values["ghosting"] = metrics.ghosting(frames, clip.world)
    return {name: _finite(value) for name, value in values.items()}


def work_of(video: Video) -> dict[str, int]:
    """UNet evaluations, and videos through the UNet."""
    return {"evaluations": video.evaluations, "unet_videos": video.unet_videos}


def _finite(value: np.ndarray | float) -> list | float | None:
    """JSON has no NaN."""
    if isinstance(value, np.ndarray):
        return [_finite(float(each)) for each in value]
    return None if math.isnan(value) else round(value, 6)


def read_rows(out: Path, kind: str, name: str, clips: list[str]) -> list[dict]:
    """The measures of a method on the clips that are there, in the order of `clips`; None has become NaN."""
    folder = out / "rows" / kind / name
    files = [folder / f"{clip}.json" for clip in clips]
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


def write_strip(path: Path, frames: torch.Tensor) -> None:
    """The frames `[frames, 3, h, w]` side by side as a PNG."""
    strip = (torch.cat(list(eight_bit(frames)), dim=-1) * 255).round().byte().movedim(0, -1).numpy()
    with atomic_write(path) as temporary:
        Image.fromarray(strip).save(temporary, "PNG")


def _write_whole(path: Path, content: bytes) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
