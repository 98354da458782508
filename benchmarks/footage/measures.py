"""What a video of real footage is measured by, beside `common/metrics.py`; nobody knows here how things truly moved."""

import math
from concurrent.futures import ThreadPoolExecutor

import comfy.model_management
import numpy as np
import torch
import torch.nn.functional as F

from ...common.out_of_memory import is_out_of_memory
from ..common import metrics
from ..common.clips import HeldOutClip
from ..common.rows import row_of
from .networks import Networks

METRICS = {
    "cvvdp": "ColorVideoVDP, JOD ↑",
    "psnr": "PSNR, dB ↑",
    "ssim": "SSIM ↑",
    "lpips": "LPIPS ↓",
    "ghosting": "ghosting ↓",
    "keyframe_error": "keyframe error, levels ↓",
}
BLOCKS = 72
"""Blocks in the height of a picture in which ghosting is looked for; none is smaller than 4 pixels."""
CHANGED = 8 / 255
"""Root mean square difference of the keyframes from which on a block counts as changed."""
MIXED_TRUTH = 0.9
"""A true frame that is a mixture of the keyframes to more than this says nothing of ghosts."""
SEEN_LINES = 256
"""Smaller pictures are shown to ColorVideoVDP enlarged, by a whole number, to at least so many lines."""


class Measures:
    """All measures of one video of a clip, as its row holds them. Raises PackageMissing."""

    def __init__(self, networks: Networks, color_video_vdp: bool, height: int):
        self.networks = networks
        self._vdp = None
        if color_video_vdp:
            device = "cuda" if torch.cuda.is_available() else "cpu"
            self._vdp = metrics.ColorVideoVDP(math.ceil(SEEN_LINES / height), device)

    def __call__(self, frames: torch.Tensor, clip: HeldOutClip, rate: float) -> dict:
        """`frames` and the clip's true ones `[frames, 3, h, w]` in 0…1; `rate`: frames a second at which it is seen."""
        try:
            return self._measured(frames, clip, rate)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # The model is not needed meanwhile.
        comfy.model_management.unload_all_models()
        comfy.model_management.soft_empty_cache()
        return self._measured(frames, clip, rate)

    def _measured(self, frames: torch.Tensor, clip: HeldOutClip, rate: float) -> dict:
        values = {
            "psnr": metrics.psnr(frames, clip.truth),
            "ssim": _ssim(frames, clip.truth),
            "ghosting": ghosting(frames, clip.truth),
            "keyframe_error": metrics.keyframe_error(frames, clip.truth),
            **self.networks.lpips(frames, clip.truth),
        }
        if self._vdp is not None:
            values["cvvdp"] = self._vdp(frames, clip.truth, rate)
        return row_of(values)

    def lacking(self, row: dict, frames: torch.Tensor, clip: HeldOutClip) -> dict:
        """What a network that was not there when the row was made says of the video."""
        return {} if "lpips" in row else row_of(self.networks.lpips(frames, clip.truth))


def _ssim(frames: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    """That of each frame, several at a time: at full size it takes a second a frame."""
    with ThreadPoolExecutor() as pool:
        return np.concatenate(list(pool.map(metrics.ssim, frames.split(1), truth.split(1))))


def ghosting(frames: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    """How far each frame is a cross-fade of the two keyframes where the true one is none, in 0…1, `[frames]`.

    In each block x of a frame, a and b of the true keyframes, the best mixture a + s (b − a), s in 0…1, is put beside
    the nearer keyframe: it explains min(|x − a|², |x − b|²) − |x − a − s (b − a)|² of the squared difference to that
    keyframe, nothing where x is one of them or something else, all where both shine through. m is the share of it in
    all blocks that differ between the keyframes. The score is (m − m_true) / (1 − m_true), at least 0: what moves
    little or is smooth is a mixture in truth, too. 0 for the true frames, 1 for a cross-fade; an object in the wrong
    place is no ghost. Copies at other places than in the keyframes are not seen. NaN for the keyframes themselves,
    where nothing changes, and where the true frame is a mixture (m_true above 0.9).
    """
    true = _mixed(truth, truth)
    with np.errstate(invalid="ignore"):
        score = np.clip((_mixed(frames, truth) - true) / (1 - true), 0, 1)
        score[(true > MIXED_TRUTH) | np.isnan(true)] = math.nan
    score[[0, -1]] = math.nan
    return score


def _mixed(frames: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    """m of each frame, NaN where no block changes."""
    first, last = truth[:1], truth[-1:]
    side = max(4, frames.shape[-2] // BLOCKS)

    def blocks(values: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(values.mean(1, keepdim=True), side, ceil_mode=True).flatten(1)

    apart = blocks((last - first).square())
    changed = apart > CHANGED**2
    to_first, to_last = blocks((frames - first).square()), blocks((frames - last).square())
    along = blocks((frames - first) * (last - first))
    share = (along / apart.clamp(min=1e-9)).clamp(0, 1)
    nearer = torch.minimum(to_first, to_last)
    explained = nearer - (to_first - 2 * share * along + share.square() * apart)
    explained, nearer = ((each * changed).sum(1) for each in (explained, nearer))
    mixed = torch.where(nearer > 1e-9, explained / nearer.clamp(min=1e-9), 0.0)
    return torch.where(changed.any(1), mixed, torch.nan).double().numpy()
