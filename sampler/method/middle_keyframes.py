"""Keyframes inside a clip: a correction of the estimate at their frames, which falls off over the frames around them.

At every evaluation, with D the estimate of all frames, m the frames that have a keyframe and z the keyframes' latents,

    D ← D + W (z − D[m])        W = K[:, m] (K[m, m] + Λ)⁻¹,  Λ = diag((1 − s) / s)

W is that of Gaussian-process regression (Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006,
equation 2.23): what is wrong at the keyframes says what is likely wrong around them. One keyframe of strength s alone
moves its own frame by s (z − D). At s = 1 the frame is the keyframe, whatever the others are; as s falls to 0 the
keyframe ceases to count, for the frames around it as well.

The covariance of two frames, K[i, j] = max(0, 1 − |i − j| / reach), makes the correction fall off linearly: to 0 over
`reach` frames or, sooner, at the next keyframe and at the ends of the clip, which count as frames where nothing is
wrong. The reach is a part of the clip, since between the same keyframes more frames move less from one to the next; how
much was measured (benchmarks/middle_keyframes).
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch

REACH = 3 / 8
"""Over which part of the clip a correction falls off: 3 frames of 9, 9 of 25."""


def falling_linearly(distances: torch.Tensor, reach: float) -> torch.Tensor:
    """K of frames that are `distances` frames apart; `reach`: at least 1, which moves a keyframe's own frame alone."""
    return (1 - distances / reach).clamp(min=0)


def correction_weights(
    frames: int,
    positions: Sequence[int],
    strengths: Sequence[float],
    ends: Sequence[int],
    covariance: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """W, `[frames, keyframes]` in float64: how much of each keyframe's difference each frame of the clip takes on.

    `positions`: the keyframes' frames, counted from 0, none of them twice; `strengths`: theirs, above 0 and at most 1;
    `ends`: the frames, none of `positions`, that stay as they are; `covariance(distances)`: K, 1 where the distance
    is 0; by default it falls linearly over REACH of the clip.
    """
    if covariance is None:
        covariance = partial(falling_linearly, reach=max(1.0, REACH * (frames - 1)))
    known = torch.tensor([*positions, *ends])
    strength = torch.tensor([*strengths, *(1.0 for _ in ends)], dtype=torch.float64)
    covariances = covariance((torch.arange(frames)[:, None] - known).abs().double())
    observed = covariances[known] + torch.diag((1 - strength) / strength)
    return torch.linalg.solve(observed, covariances, left=False)[:, : len(positions)]


def middle_keyframe_correction(
    estimate: torch.Tensor,
    keyframes: torch.Tensor,
    positions: Sequence[int],
    weights: torch.Tensor,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """D + W (z − D[m]) of an estimate `[frames, 4, h, w]`, in its number format.

    `keyframes`: z, `[keyframes, 4, h, w]`, as the sampled latents hold them; `weights`: `[frames, keyframes]`; `mask`:
    a noise mask like the estimate, 0 where the latent's own frame is kept and no keyframe stands.
    """
    precise = estimate.float()
    difference = keyframes.to(precise) - precise[list(positions)]
    if mask is not None:
        difference = difference * mask[list(positions)].to(difference)
    return (precise + torch.tensordot(weights.to(difference), difference, dims=1)).to(estimate.dtype)
