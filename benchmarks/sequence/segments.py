"""How smoothly the objects pass the keyframe at which two segments meet, from the videos and their rows.

Places are pixels, as demo/world/tracker.py finds an object, `[objects, frames, 2]`; NaN where less than half of it can
be seen. What is measured is the difference to the true motion, so that an object that truly slows down is not counted
as a jump; a clip's value is the mean over its objects that have one.
"""

import math
from pathlib import Path

import numpy as np
import torch

from ...demo.world.tracker import seen, track
from ..common.clips import HeldOutClip
from ..common.metrics import frame_errors, mean_at, over_objects
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
    beside = [each[:, [middle - 1, middle + 1]] for each in places]
    return {
        "clips": len(clips),
        "frames": len(clips[0].truth),
        "size": clips[0].truth.shape[-1],
        "true_speed": interval(
            [mean_at(np.linalg.norm(at[:, 1] - at[:, 0], axis=1) / 2, slice(None)) for at in beside]
        ),
        "true_change": interval([speed_jump(each, middle, 2) for each in places]),
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
    middle, last = truth.shape[1] // 2, truth.shape[1] - 1
    errors = over_objects(np.linalg.norm(places - truth, axis=-1))
    acceleration_errors = np.linalg.norm(np.diff(places - truth, n=2, axis=1), axis=-1)
    return {
        "jump": jump(places, truth, middle, 2),
        "jump_1": jump(places, truth, middle, 1),
        "acceleration": mean_at(over_objects(acceleration_errors), slice(None)),
        "motion_error": mean_at(errors, [frame for frame in range(last) if frame not in (0, middle)]),
        "keyframe": mean_at(frame_errors(frames, clip.truth), [middle]),
    }


def jump(places: np.ndarray, truth: np.ndarray, keyframe: int, window: int) -> float:
    """|Δv − true Δv| in pixels a frame; Δv: `velocity_change`; both `[objects, frames, 2]`."""
    found, true = (velocity_change(each, keyframe, window) for each in (places, truth))
    return mean_at(np.linalg.norm(found - true, axis=-1), slice(None))


def velocity_change(places: np.ndarray, keyframe: int, window: int) -> np.ndarray:
    """v after − v before, `[objects, 2]`; v: mean velocity over `window` frames on that side of the keyframe."""
    before = (places[:, keyframe] - places[:, keyframe - window]) / window
    after = (places[:, keyframe + window] - places[:, keyframe]) / window
    return after - before


def speed_jump(places: np.ndarray, keyframe: int, window: int) -> float:
    """|v after − v before| in pixels a frame, whatever the truth does."""
    return mean_at(np.linalg.norm(velocity_change(places, keyframe, window), axis=-1), slice(None))


def _true_places(clip: HeldOutClip) -> np.ndarray:
    return seen(clip.world.motion.centre, clip.world).numpy()


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
        f"{found['size']}×{found['size']}, preset `{found['preset']}`, model trained: {found['trained']}. The objects "
        f"pass the middle keyframe at {cell(found['true_speed'])} px/frame, and their velocity changes there by "
        f"{cell(found['true_change'])} px/frame over 2 frames a side. Means and 95 % intervals.\n\n"
        + table(["UNet videos", *MEASURES.values()], rows)
        + f"\nMinus {plain['label']}, clip by clip:\n\n"
        + table(MEASURES.values(), minus)
    )
