"""Guidance and fusion of the two directions (Wang et al., arXiv 2408.15239, section 4.2, and the authors' release).

    v = w_i · v_f + (1 − w_i) · reverse_time(v_b)        for frame i

`average`, the release's default: w = 0.5 and one guidance scale, the middle of its range.
`weighted`: w falls from 1 to 0, and guidance rises from its minimum to its maximum in each direction's own time, so
that each direction is trusted, and left alone, near its own keyframe.

The fusion is linear and its weights add up to 1, so it may be applied to denoised estimates as well as to v.

Running a video model backward: its input reversed in time, its result reversed back (section 4.2 of the paper).

Motion prior distillation (Jeon et al., arXiv 2602.12679): the forward direction's motion, led to the last keyframe.

The backward direction is not computed. What it would begin with is known, the last keyframe's latent, and its motion is
the forward direction's, frame by frame:

    reverse_time(D_b)[i] = z_last + (D_f[i] − D_f[last])

Their release does so in the first tenth of its steps, beside CFG++, decomposed diffusion sampling and re-noising, and
computes the backward direction afterwards. Here it is done in every step, and there is nothing beside it: guidance and
fusion are those of every other strategy.
"""

import math

import torch

FUSIONS = ("average", "weighted")


def fusion_weights(fusion: str, frames: int) -> torch.Tensor:
    """w: the forward direction's share in each frame, `[frames, 1, 1, 1]`, in 0…1."""
    weights = torch.linspace(1, 0, frames) if fusion == "weighted" else torch.full((frames,), 0.5)
    return weights.reshape(frames, 1, 1, 1)


def guidance_scales(fusion: str, frames: int, minimum: float, maximum: float) -> torch.Tensor:
    """g: the guidance scale of each frame in a direction's own time, `[frames, 1, 1, 1]`."""
    if fusion == "weighted":
        return torch.linspace(minimum, maximum, frames).reshape(frames, 1, 1, 1)
    return torch.full((frames, 1, 1, 1), (minimum + maximum) / 2)


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


def reverse_sequences(sequences: torch.Tensor) -> torch.Tensor:
    """The tokens of temporal attention in reversed time; `[positions, frames, channels]`."""
    return sequences.flip(1)


def backward_estimate(forward: torch.Tensor, last_keyframe: torch.Tensor) -> torch.Tensor:
    """D_b, `[frames, 4, h, w]` in reversed time, from D_f in forward time and the last keyframe's `[1, 4, h, w]`."""
    return reverse_time(last_keyframe.to(forward) + forward - forward[-1:])
