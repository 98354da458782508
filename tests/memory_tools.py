"""What tests of memory share."""

import gc

import torch
from generative_inbetweening.training.memory import LiveBytes
from small_model import FRAMES


def unpatched(model) -> bool:
    """Whether every module of the model's UNet is as the host made it."""
    return not any("forward" in module.__dict__ for module in model.model.diffusion_model.modules())


def calling(model, look):
    """A clone of the model that calls `look(videos in the call)` before each UNet call."""
    model = model.clone()

    def wrapper(apply_model, arguments):
        look(len(arguments["input"]) // FRAMES)
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    model.set_model_unet_function_wrapper(wrapper)
    return model


def counting() -> LiveBytes:
    """Counts the bytes of all tensors made inside it."""
    gc.collect()
    return LiveBytes(each for each in gc.get_objects() if isinstance(each, torch.Tensor))
