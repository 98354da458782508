"""How smoothly the main object passes the keyframe at which two segments meet, from the videos and their rows.

Places are pixels, as demo/world/tracker.py finds the object; NaN where less than half of it can be seen. What is
measured is the difference to the true motion, so that an object that truly slows down is not counted as a jump.
"""

import math
from pathlib import Path

import numpy as np
import torch

from ...demo.world.tracker import seen, track
from ..common.clips import HeldOutClip
from ..common.metrics import frame_errors, mean_at
from ..common.report import cell, difference, interval, table
from ..common.rows import read_frames, read_rows

MEASURES = {
    "jump": "jump of velocity at the keyframe, px/frame ↓",
    "jump_1": "… over 1 frame a side ↓",
    "acceleration": "error of acceleration, all frames, px/frame² ↓",
    "motion_error": "motion error between keyframes, px ↓",
    "cvvdp": "ColorVideoVDP, JOD ↑",
    "keyframe": "picture at the keyframe, levels ↓",
}
RECONSTRUCTION = "the true frames through the VAE"


def result(out: Path, labels: dict[str, str], plain: str, clips: list[HeldOutClip]) -> dict:
    """Means with intervals of every way, and of each minus the way `plain`, clip by clip."""
    values = {name: _values(out, name, clips) for name in ["reconstruction", *labels]}
    middle = len(clips[0].truth) // 2
    places = [_true_places(clip) for clip in clips]
    return {
        "clips": len(clips),
        "frames": len(clips[0].truth),
        "size": clips[0].truth.shape[-1],
        "true_speed": interval([float(np.linalg.norm(each[middle + 1] - each[middle - 1])) / 2 for each in places]),
        "true_change": interval([float(np.linalg.norm(velocity_change(each, middle, 2))) for each in places]),
        "ways": {
            name: {
                "label": labels.get(name, RECONSTRUCTION),
                "unet_videos": float(np.mean(each["unet_videos"])),
                **{measure: interval(each[measure]) for measure in MEASURES},
                "minus": {measure: difference(each[measure], values[plain][measure]) for measure in MEASURES},
            }
            for name, each in values.items()
        },
        "plain": plain,
    }


def _values(out: Path, name: str, clips: list[HeldOutClip]) -> dict[str, list[float]]:
    """{measure: its value of each clip}."""
    found: dict[str, list[float]] = {measure: [] for measure in ("unet_videos", *MEASURES)}
    for clip in clips:
        (row,) = read_rows(out, "world", name, [clip.name])
        for measure, value in {**row, **measures(read_frames(out, "world", name, clip.name), clip)}.items():
            if measure in found:
                found[measure].append(value)
        if "cvvdp" not in row:
            found["cvvdp"].append(math.nan)
    return found


def measures(frames: torch.Tensor, clip: HeldOutClip) -> dict[str, float]:
    """The measures of one video, `[frames, 3, h, w]`, but for ColorVideoVDP."""
    places, truth = seen(track(frames, clip.world).centre, clip.world).numpy(), _true_places(clip)
    middle, last = len(truth) // 2, len(truth) - 1
    errors = np.linalg.norm(places - truth, axis=1)
    return {
        "jump": jump(places, truth, middle, 2),
        "jump_1": jump(places, truth, middle, 1),
        "acceleration": mean_at(np.linalg.norm(np.diff(places - truth, n=2, axis=0), axis=1), slice(None)),
        "motion_error": mean_at(errors, [frame for frame in range(last) if frame not in (0, middle)]),
        "keyframe": mean_at(frame_errors(frames, clip.truth), [middle]),
    }


def jump(places: np.ndarray, truth: np.ndarray, keyframe: int, window: int) -> float:
    """|Δv − true Δv| in pixels a frame; Δv: `velocity_change`; both `[frames, 2]`."""
    return float(np.linalg.norm(velocity_change(places, keyframe, window) - velocity_change(truth, keyframe, window)))


def velocity_change(places: np.ndarray, keyframe: int, window: int) -> np.ndarray:
    """v after − v before, `[2]`; v: mean velocity over `window` frames on that side of the keyframe."""
    before = (places[keyframe] - places[keyframe - window]) / window
    after = (places[keyframe + window] - places[keyframe]) / window
    return after - before


def speed_jump(places: np.ndarray, keyframe: int, window: int) -> float:
    """|v after − v before| in pixels a frame, whatever the truth does."""
    return float(np.linalg.norm(velocity_change(places, keyframe, window)))


def _true_places(clip: HeldOutClip) -> np.ndarray:
    return seen(clip.world.motion.centre[0], clip.world).numpy()


def markdown(found: dict) -> str:
    """Two tables: each way, and each minus the plain one, bold where the interval does not hold 0."""
    ways, plain = found["ways"], found["ways"][found["plain"]]
    rows = [
        [way["label"], f"{way['unet_videos']:.0f}", *(cell(way[measure]) for measure in MEASURES)]
        for way in ways.values()
    ]
    minus = [
        [way["label"], *(cell(way["minus"][measure], signed=True) for measure in MEASURES)]
        for name, way in ways.items()
        if name not in (found["plain"], "reconstruction")
    ]
    return (
        f"{found['clips']} held-out clips of {found['frames']} frames through three keyframes, "
        f"{found['size']}×{found['size']}, preset `{found['preset']}`, model trained: {found['trained']}. The object "
        f"passes the middle keyframe at {cell(found['true_speed'])} px/frame, and its velocity changes there by "
        f"{cell(found['true_change'])} px/frame over 2 frames a side. Means and 95 % intervals.\n\n"
        + table(["UNet videos", *MEASURES.values()], rows)
        + f"\nMinus {plain['label']}, clip by clip:\n\n"
        + table(MEASURES.values(), minus)
    )
