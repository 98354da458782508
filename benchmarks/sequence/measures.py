"""What the sequence benchmark measures in a clip of the small world that was made segment by segment.

Places are pixels, as demo/world_tracker.py finds the main object; NaN where less than half of it can be seen.
"""

import math

import numpy as np
import torch
from generative_inbetweening.demo.world.tracker import SEEN, track
from generative_inbetweening.demo.world.world import Clip


def places(frames: torch.Tensor, clip: Clip) -> np.ndarray:
    """Where the main object is found, `[frames, 2]`; `frames`: in 0…1, `[frames, 3, h, w]`."""
    return np.where(_seen(clip)[:, None], track(frames, clip).centre.numpy(), math.nan)


def true_places(clip: Clip) -> np.ndarray:
    """Where the main object is, `[frames, 2]`."""
    return np.where(_seen(clip)[:, None], clip.motion.centre[0].numpy(), math.nan)


def speed_jump(centres: np.ndarray, keyframe: int, window: int) -> float:
    """|v after − v before| in pixels a frame; v: mean velocity over the `window` frames on that side of the keyframe."""
    before = (centres[keyframe] - centres[keyframe - window]) / window
    after = (centres[keyframe + window] - centres[keyframe]) / window
    return float(np.linalg.norm(after - before))


def place_errors(centres: np.ndarray, clip: Clip) -> np.ndarray:
    """Distance from the true place in each frame, `[frames]`."""
    return np.linalg.norm(centres - true_places(clip), axis=-1)


def mean_at(values: np.ndarray, frames: list[int]) -> float:
    """Mean over those frames that have a value; NaN where none has."""
    chosen = values[frames]
    return float(np.nanmean(chosen)) if np.isfinite(chosen).any() else math.nan


def picture_errors(frames: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    """Root mean square difference of each frame to the true one in 8-bit levels (0…255), `[frames]`."""
    return (255 * (frames - truth).square().flatten(1).mean(1).sqrt()).numpy()


def _seen(clip: Clip) -> np.ndarray:
    return (clip.motion.visibility[0] >= SEEN).numpy()
