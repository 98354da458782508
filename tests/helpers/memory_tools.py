"""What tests of memory share."""

import gc

import torch
from generative_inbetweening.training.memory import LiveBytes

from helpers.small_model import FRAMES, watched


def calling(model, look):
    """A clone of the model that calls `look(videos in the call)` before each UNet call."""
    return watched(model, lambda arguments: look(len(arguments["input"]) // FRAMES))


def counting() -> LiveBytes:
    """Counts the bytes of all tensors made inside it."""
    gc.collect()
    # Sparse tensors of other tests have no storage of their own.
    return LiveBytes(
        each for each in gc.get_objects() if isinstance(each, torch.Tensor) and each.layout == torch.strided
    )
