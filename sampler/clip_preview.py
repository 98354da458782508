"""A preview of the whole clip while it is sampled: each evaluation shows the next frame."""

import latent_preview
import torch

from .progress import Callback


def clip_preview(model, steps: int) -> Callback:
    """The host's callback, whose preview goes through the frames instead of always showing the first.

    When another extension shows previews in its own way, it gets all frames as they are.
    """
    callback = latent_preview.prepare_callback(model, steps)
    if getattr(latent_preview.get_previewer, "__globals__", None) is not vars(latent_preview):
        return callback

    def next_frame(evaluation: int, x0: torch.Tensor, x: torch.Tensor, total: int) -> None:
        # The host shows the first of the latents that it is given.
        callback(evaluation, x0[evaluation % len(x0) :], x, total)

    return next_frame
