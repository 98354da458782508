"""Motion prior distillation (Jeon et al., arXiv 2602.12679): the forward direction's motion, led to the last keyframe.

The backward direction is not computed. What it would begin with is known, the last keyframe's latent, and its motion is
the forward direction's, frame by frame:

    reverse_time(D_b)[i] = z_last + (D_f[i] − D_f[last])

Their release does so in the first tenth of its steps, beside CFG++, decomposed diffusion sampling and re-noising, and
computes the backward direction afterwards. Here it is done in every step, and there is nothing beside it: guidance and
fusion are those of every other strategy.
"""

import torch

from .order_of_work import Part
from .time_reversal import reverse_time


def backward_estimate(forward: torch.Tensor, last_keyframe: torch.Tensor) -> torch.Tensor:
    """D_b, `[frames, 4, h, w]` in reversed time, from D_f in forward time and the last keyframe's `[1, 4, h, w]`."""
    return reverse_time(last_keyframe.to(forward) + forward - forward[-1:])


def with_backward_estimates(
    estimates: dict[Part, torch.Tensor], last_keyframe: torch.Tensor
) -> dict[Part, torch.Tensor]:
    """The forward estimates of each guidance half, and the backward ones that follow from them."""
    return estimates | {
        (half, "backward"): backward_estimate(forward, last_keyframe) for (half, _), forward in estimates.items()
    }
