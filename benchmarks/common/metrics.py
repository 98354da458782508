"""What a video between two keyframes is measured by; every function takes frames in 0…1, `[frames, 3, h, w]`.

The in-between frames are all but the first and the last. A metric that cannot be had for a clip is NaN.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ...demo.world.tracker import SEEN, best_place, fit, object_templates
from ...demo.world.world import SIZE, Clip

METRICS = {
    "psnr": "PSNR, dB ↑",
    "ssim": "SSIM ↑",
    "cvvdp": "ColorVideoVDP, JOD ↑",
    "keyframe_error": "keyframe error, levels ↓",
    "motion_error": "motion error, px ↓",
    "ghosting": "ghosting ↓",
}
MOTION_METRICS = ("motion_error", "ghosting")
LARGEST_PSNR = 100.0

CVVDP_DISPLAY = "standard_fhd"
CVVDP_ENLARGE, CVVDP_FRAME_RATE = 4, 7
"""The clip is seen 4 times larger (bicubic) on a 24-inch Full HD screen, at 7 frames a second."""

APART = 12.0
"""Pixels at 128x128 between two places that count as two copies of an object."""
COPY_ENERGY = 0.3
"""A place where less of the object than this share could be seen, at the edge or behind the post, says too little."""


def psnr(frames: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    """Peak signal-to-noise ratio of each frame in dB, at most 100, `[frames]`."""
    with np.errstate(divide="ignore"):
        found = [
            peak_signal_noise_ratio(true, ours, data_range=1.0) for ours, true in zip(frames.numpy(), truth.numpy())
        ]
    return np.minimum(found, LARGEST_PSNR)


def ssim(frames: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    """Structural similarity of each frame (Wang et al. 2004, Gaussian window), `[frames]`."""
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return np.array(
        [
            structural_similarity(ours, true, channel_axis=0, data_range=1.0, **window)
            for ours, true in zip(frames.numpy(), truth.numpy())
        ]
    )


def frame_errors(frames: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    """Root mean square difference of each frame to the true one in 8-bit levels (0…255), `[frames]`."""
    return (255 * (frames - truth).square().flatten(1).mean(1).sqrt()).numpy()


def keyframe_error(frames: torch.Tensor, truth: torch.Tensor) -> float:
    """Root mean square difference to the two keyframes, in 8-bit levels (0…255)."""
    return float(255 * (frames[[0, -1]] - truth[[0, -1]]).square().mean().sqrt())


class ColorVideoVDP:
    """ColorVideoVDP (Mantiuk et al. 2024, arXiv 2401.11485) in JOD: 10 is no visible difference, less is worse."""

    def __init__(self, enlarge: int = CVVDP_ENLARGE, device: str = "cpu"):
        import pycvvdp

        self.metric = pycvvdp.cvvdp(display_name=CVVDP_DISPLAY, quiet=True, device=torch.device(device))
        self.enlarge = enlarge

    @torch.no_grad()
    def __call__(self, frames: torch.Tensor, truth: torch.Tensor, rate: float = CVVDP_FRAME_RATE) -> float:
        """`rate`: frames a second at which they are seen."""
        videos = [_as_shown(video, self.enlarge) for video in (frames, truth)]
        return float(self.metric.predict(*videos, dim_order="FCHW", frames_per_second=rate)[0])


def _as_shown(video: torch.Tensor, enlarge: int) -> torch.Tensor:
    if enlarge == 1:
        return video
    return F.interpolate(video, scale_factor=enlarge, mode="bicubic", align_corners=False).clamp(0, 1)


def ghosting(frames: torch.Tensor, clip: Clip) -> np.ndarray:
    """How much of a second, translucent copy of each object each frame has, in 0…1, `[objects, frames]`.

    The frame minus what is truly around the object, r, is explained by two copies of it, opacity m and colour c, one
    after the other: at each place p a copy T_p = m(c − ground) with amplitude a_p = ⟨r, T_p⟩ / ⟨T_p, T_p⟩ in 0…1 lowers
    the squared error by a_p (2⟨r, T_p⟩ − a_p ⟨T_p, T_p⟩). a₁ is that of the best place, a₂ that of the best place at
    least `APART` away once the first copy is subtracted. The score is 2 min(a₁, a₂) / (a₁ + a₂): 0 for one copy, 1 for
    two of equal strength. NaN where less than half of the object can be seen.
    """
    scores = []
    for index, (hidden, ground) in enumerate(zip(clip.hidden, clip.without, strict=True)):
        clear, templates = 1 - hidden, object_templates(clip, index)
        residual = (frames - ground) * clear
        first = fit(residual, ground, clear, *templates, least_energy=COPY_ENERGY)
        place = best_place(first.gain)
        strength = first.strength_at(place)
        residual = residual - _copies(strength, place, ground, clear, *templates)
        second = fit(residual, ground, clear, *templates, least_energy=COPY_ENERGY)
        others = second.strength_at(best_place(second.gain * _apart(second.gain, place)))
        scores.append(2 * torch.minimum(strength, others) / (strength + others).clamp(min=1e-6))
    return np.where(clip.motion.visibility >= SEEN, torch.stack(scores), math.nan)


def _apart(gain: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Where another copy may be, `[frames, h, w]`."""
    _, height, width = gain.shape
    rows, columns = torch.arange(height).view(1, -1, 1), torch.arange(width).view(1, 1, -1)
    row, column = place.view(-1, 2, 1, 1).unbind(1)
    return torch.hypot((rows - row).float(), (columns - column).float()) >= APART * width / SIZE


def _copies(strength, place, ground, clear, opacity, colour) -> torch.Tensor:
    """The copies as they stand in their frames, `[frames, 3, h, w]`."""
    reach = opacity.shape[-1] // 2
    size = [side + 2 * reach for side in ground.shape[-2:]]
    m, c = torch.zeros(len(ground), 1, *size), torch.zeros(len(ground), 3, *size)
    for frame, (row, column) in enumerate(place.tolist()):
        area = (..., slice(row, row + 2 * reach + 1), slice(column, column + 2 * reach + 1))
        m[frame][area], c[frame][area] = opacity[frame], colour[frame]
    inside = (..., slice(reach, -reach), slice(reach, -reach))
    return strength.view(-1, 1, 1, 1) * clear * m[inside] * (c[inside] - ground)


def over_objects(values: np.ndarray) -> np.ndarray:
    """Mean over the objects that have a value, `[objects, frames]` to `[frames]`; NaN where none has."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(0)
    return np.where(known.any(0), total / np.maximum(known.sum(0), 1), math.nan)


def between(values: np.ndarray) -> float:
    """Mean over the in-between frames that have a value; NaN where none has."""
    return mean_at(values, slice(1, -1))


def mean_at(values: np.ndarray, frames: list[int] | slice) -> float:
    """Mean over those frames that have a value; NaN where none has."""
    chosen = values[frames]
    return float(np.nanmean(chosen)) if np.isfinite(chosen).any() else math.nan
