"""Guidance and fusion of the two directions (Wang et al., "Generative Inbetweening", arXiv 2408.15239, section 4.2).

    v = w_i · v_f + (1 − w_i) · reverse_time(v_b)        for frame i

`average`, the release's default: w = 0.5 and one guidance scale, the middle of its range.
`weighted`: w falls from 1 to 0, and guidance rises from its minimum to its maximum in each direction's own time. Each
direction counts most, and is guided least, near its own keyframe.

The fusion is linear and its weights add up to 1, so it may be applied to denoised estimates D as well as to v.

A video model runs backward when its input is reversed in time and its result reversed back. The strategy
`time-reversal` fuses the base model run both ways.

The strategy `endpoint-correction` does not compute the backward direction. Its estimate is the forward one, moved as a
whole so that it ends at the last keyframe:

    reverse_time(D_b)[i] = D_f[i] + (z_last − D_f[last])

Without guidance, weighted fusion then gives

    D[i] = D_f[i] + (1 − w_i) (z_last − D_f[last])

the forward video with the error at its end spread linearly over the frames. `settings.py` names the papers behind both.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Fusion:
    """How both directions become one, and how each is guided for it.

    `weights(frames)`: w, the forward direction's share in each frame, in 0…1; `scales(frames, minimum, maximum)`: the
    guidance scale of each frame in a direction's own time; `far_scale(minimum, maximum)`: the scale at a direction's
    far end; `ramps_guidance`: whether the scale changes over the frames.
    """

    weights: Callable[[int], torch.Tensor]
    scales: Callable[[int, float, float], torch.Tensor]
    far_scale: Callable[[float, float], float]
    ramps_guidance: bool


FUSIONS = {
    "average": Fusion(
        weights=lambda frames: torch.full((frames,), 0.5),
        scales=lambda frames, minimum, maximum: torch.full((frames,), (minimum + maximum) / 2),
        far_scale=lambda minimum, maximum: (minimum + maximum) / 2,
        ramps_guidance=False,
    ),
    "weighted": Fusion(
        weights=lambda frames: torch.linspace(1, 0, frames),
        scales=lambda frames, minimum, maximum: torch.linspace(minimum, maximum, frames),
        far_scale=lambda minimum, maximum: maximum,
        ramps_guidance=True,
    ),
}


def fusion_weights(fusion: str, frames: int) -> torch.Tensor:
    """w of a fusion, `[frames, 1, 1, 1]`. Raises KeyError for an unknown one."""
    return FUSIONS[fusion].weights(frames).reshape(frames, 1, 1, 1)


def guidance_scales(fusion: str, frames: int, minimum: float, maximum: float) -> torch.Tensor:
    """g of a fusion in a direction's own time, `[frames, 1, 1, 1]`. Raises KeyError for an unknown one."""
    return FUSIONS[fusion].scales(frames, minimum, maximum).reshape(frames, 1, 1, 1)


def changes_nothing(scales: torch.Tensor) -> bool:
    """Whether guidance by these scales is none: all of them are 1, and the unconditional half is not needed."""
    return all(math.isclose(scale, 1.0) for scale in scales.flatten().tolist())


def fuse(forward: torch.Tensor, backward: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """w · forward + (1 − w) · reverse_time(backward), in forward time.

    `forward`: `[frames, 4, h, w]` in forward time; `backward`: the same in reversed time; `weights`:
    `[frames, 1, 1, 1]`.
    """
    return weights * forward + (1 - weights) * reverse_time(backward)


def reverse_time(frames: torch.Tensor) -> torch.Tensor:
    """The same clip from its last frame to its first; `[frames, …]`. Twice is the identity."""
    return frames.flip(0)


def endpoint_correction(forward: torch.Tensor, last_keyframe: torch.Tensor) -> torch.Tensor:
    """D_b of the strategy `endpoint-correction`: D_f moved to end at the last keyframe, in reversed time.

    `forward`: `[frames, 4, h, w]` in forward time; `last_keyframe`: its latent, `[1, 4, h, w]`.
    """
    return reverse_time(last_keyframe.to(forward) + forward - forward[-1:])
