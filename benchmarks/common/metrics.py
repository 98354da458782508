"""What a video between two keyframes is measured by; every function takes frames in 0…1, `[frames, 3, h, w]`.

The in-between frames are all but the first and the last. A metric that cannot be had for a clip is NaN.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from generative_inbetweening.demo.world.tracker import SEEN, object_templates, track
from generative_inbetweening.demo.world.world import Clip

HIGHER_IS_BETTER = {
    "psnr": True,
    "ssim": True,
    "cvvdp": True,
    "keyframe_error": False,
    "motion_error": False,
    "ghosting": False,
}
LARGEST_PSNR = 100.0

CVVDP_DISPLAY = "standard_fhd"
CVVDP_ENLARGE, CVVDP_FRAME_RATE = 4, 7
"""The clip is seen 4 times larger (bicubic) on a 24-inch Full HD screen, at 7 frames a second."""

APART = 6.0
"""Pixels at 64x64 between two places that count as two copies of an object."""


def psnr(frames: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    """Peak signal-to-noise ratio of each frame in dB, at most 100, `[frames]`."""
    error = (frames - truth).square().flatten(1).mean(1).double().clamp(min=10 ** (-LARGEST_PSNR / 10))
    return (-10 * error.log10()).numpy()


def ssim(frames: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    """Structural similarity of each frame (Wang et al. 2004, Gaussian window, as scikit-image has it), `[frames]`."""
    from skimage.metrics import structural_similarity

    return np.array(
        [
            structural_similarity(
                ours.numpy(),
                true.numpy(),
                channel_axis=0,
                data_range=1.0,
                sigma=1.5,
                gaussian_weights=True,
                use_sample_covariance=False,
            )
            for ours, true in zip(frames, truth)
        ]
    )


def keyframe_error(frames: torch.Tensor, truth: torch.Tensor) -> float:
    """Root mean square difference to the two keyframes, in 8-bit levels (0…255)."""
    return float(255 * (frames[[0, -1]] - truth[[0, -1]]).square().mean().sqrt())


class ColorVideoVDP:
    """ColorVideoVDP (Mantiuk et al. 2024, arXiv 2401.11485) in JOD: 10 is no visible difference, less is worse."""

    def __init__(self):
        import pycvvdp

        self.metric = pycvvdp.cvvdp(display_name=CVVDP_DISPLAY, quiet=True, device=torch.device("cpu"))

    @torch.no_grad()
    def __call__(self, frames: torch.Tensor, truth: torch.Tensor) -> float:
        videos = [_as_shown(video) for video in (frames, truth)]
        return float(self.metric.predict(*videos, dim_order="FCHW", frames_per_second=CVVDP_FRAME_RATE)[0])


def _as_shown(video: torch.Tensor) -> torch.Tensor:
    return F.interpolate(video, scale_factor=CVVDP_ENLARGE, mode="bicubic", align_corners=False).clamp(0, 1)


def motion_errors(frames: torch.Tensor, clip: Clip) -> np.ndarray:
    """Pixels between where the main object is found and where it is, NaN where less than half of it can be seen."""
    distance = (track(frames, clip).centre - clip.motion.centre[0]).norm(dim=-1)
    return np.where(clip.motion.visibility[0] >= SEEN, distance, math.nan)


def ghosting(frames: torch.Tensor, clip: Clip) -> np.ndarray:
    """How much of a second, translucent copy of the main object each frame has, in 0…1, `[frames]`.

    The frame minus its true ground, r, is explained by two copies of the object, opacity m and colour c, one after
    the other: at each place p a copy T_p = m(c − ground) with amplitude a_p = ⟨r, T_p⟩ / ⟨T_p, T_p⟩ in 0…1 lowers the
    squared error by a_p (2⟨r, T_p⟩ − a_p ⟨T_p, T_p⟩). a₁ is that of the best place, a₂ that of the best place at least
    `APART` away once the first copy is subtracted. The score is 2 min(a₁, a₂) / (a₁ + a₂): 0 for one copy, 1 for two of
    equal strength. NaN where less than half of the object can be seen, and for clips with a second object.
    """
    if clip.motion.centre.shape[0] > 1:
        return np.full(len(frames), math.nan)
    ground, clear = clip.background, 1 - clip.post
    opacity, colour = object_templates(clip)
    residual = (frames - ground) * clear
    energy = _copy_energy(ground, clear, opacity, colour)
    place, first = _best_copies(residual, ground, opacity, colour, energy, None)
    residual = residual - _copies(first, place, ground, clear, opacity, colour)
    _, second = _best_copies(residual, ground, opacity, colour, energy, place)
    score = 2 * torch.minimum(first, second) / (first + second).clamp(min=1e-6)
    return np.where(clip.motion.visibility[0] >= SEEN, score, math.nan)


def _correlate(pictures: torch.Tensor, templates: torch.Tensor) -> torch.Tensor:
    """Sum over the channels of each frame's correlation with its own template, `[frames, h, w]`."""
    reach = templates.shape[-1] // 2
    padded = F.pad(pictures, (reach,) * 4)
    return F.conv2d(padded.flatten(0, 1)[None], templates, groups=len(pictures))[0]


def _copy_energy(ground, clear, opacity, colour) -> torch.Tensor:
    """⟨T_p, T_p⟩ at each place: Σ m²c² − 2 Σ m²c·ground + Σ m²·ground², where nothing stands in front."""
    clear, square = clear.expand_as(ground), opacity.square().expand_as(colour)
    energy = _correlate(clear, square * colour.square()) - 2 * _correlate(clear * ground, square * colour)
    return (energy + _correlate(clear * ground.square(), square)).clamp(min=1e-6)


def _best_copies(residual, ground, opacity, colour, energy, taken) -> tuple[torch.Tensor, torch.Tensor]:
    """Place `[frames, 2]` (row, column) and amplitude `[frames]` of the copy that explains most of each frame."""
    _count, height, width = energy.shape
    product = _correlate(residual, opacity * colour) - _correlate(residual * ground, opacity.expand_as(colour))
    amplitude = (product / energy).clamp(0, 1)
    # A place where the object is mostly outside or behind the post says too little.
    counts = energy > 0.3 * energy.flatten(1).amax(1).view(-1, 1, 1)
    gain = amplitude * (2 * product - amplitude * energy) * counts
    if taken is not None:
        rows, columns = torch.arange(height).view(1, -1, 1), torch.arange(width).view(1, 1, -1)
        row, column = taken.view(-1, 2, 1, 1).unbind(1)
        distance = torch.hypot((rows - row).float(), (columns - column).float())
        gain = gain * (distance >= APART * width / 64)
    best = gain.flatten(1).argmax(1)
    place = torch.stack((best // width, best % width), 1)
    return place, amplitude.flatten(1).gather(1, best[:, None])[:, 0]


def _copies(amplitude, place, ground, clear, opacity, colour) -> torch.Tensor:
    """The copies as they stand in their frames, `[frames, 3, h, w]`."""
    reach = opacity.shape[-1] // 2
    size = [side + 2 * reach for side in ground.shape[-2:]]
    m, c = torch.zeros(len(ground), 1, *size), torch.zeros(len(ground), 3, *size)
    for frame, (row, column) in enumerate(place.tolist()):
        area = (..., slice(row, row + 2 * reach + 1), slice(column, column + 2 * reach + 1))
        m[frame][area], c[frame][area] = opacity[frame], colour[frame]
    inside = (..., slice(reach, -reach), slice(reach, -reach))
    return amplitude.view(-1, 1, 1, 1) * clear * m[inside] * (c[inside] - ground)


def between(values: np.ndarray) -> float:
    """Mean over the in-between frames that have a value; NaN where none has."""
    inner = values[1:-1]
    return float(np.nanmean(inner)) if np.isfinite(inner).any() else math.nan
