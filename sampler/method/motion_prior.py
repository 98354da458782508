"""Motion prior distillation in alternating sampling (Jeon et al., arXiv 2602.12679, section 4.2, and their release).

The backward direction has a motion of its own, which contradicts the forward one. So in the first of the steps σ → σ′
the latents are led backward by the forward direction's motion before the backward direction is asked. With D the
forward direction's estimate with conditioning, D_u without, frames 1 … F, all in forward time:

    ε_i = (x_i − D_i) / σ        Δε_i = ε_i − ε_{i−1}            the motion residual of the forward path
    ε′_F = (x_F − z_last) / σ                                    begins at the last keyframe
    ε′_i = ε′_F − Σ_{k > i} Δε_k                                 and follows the residual backward
    D′ = x − σ ε′

The sum collapses: D′_i = D_i + (z_last − D_F), the forward estimate moved as a whole to end at the last keyframe. With
D′ the backward half of an alternating step is made, DDS and CFG++ as in `alternating.py`:

    D′_1 ← z_first
    x ← D′ + σ′ · (x − D_u) / σ
    x ← x + sqrt(σ² − σ′²) · N(0, 1)

`passes` times over in each of the first `share` of the steps, and then the alternating step itself.

As the authors' release on ViBiDSampler (`mpd_seq.py`), with its settings: 25 steps, fps 9, `separate_noise`,
`distilled_share` 0.2, `distillations` 3. What the paper leaves open is as there: the whole alternating step follows,
and of the paper's blend (1 − λ) D + λ D′ only D′ is left, λ = 1. Two things differ: the default share is the paper's, a
tenth, and the keyframes' latents are the mode of the VAE's distribution, not draws from it.
"""

import math
from dataclasses import dataclass

import torch

from .fusion import endpoint_correction, reverse_time


@dataclass(frozen=True)
class Distillation:
    """`share`: of the steps, from the first, in 0…1 (γ); `passes`: how often in each of them (k)."""

    share: float
    passes: int

    def steps(self, steps: int) -> int:
        """How many of the steps have distillation: share · steps, rounded up as in the release."""
        return min(steps, math.ceil(self.share * steps - 1e-6)) if self.passes else 0


def distilled_estimate(
    forward: torch.Tensor, last_keyframe: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """D′ of the forward estimate D, both `[frames, 4, h, w]` in forward time; `last_keyframe`: z_last, `[1, 4, h, w]`.

    `mask`: a noise mask like D, 0 where the latent's own video is kept: there D stays.
    """
    distilled = reverse_time(endpoint_correction(forward, last_keyframe))
    return distilled if mask is None else torch.lerp(forward, distilled, mask.to(forward))
