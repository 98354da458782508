"""Device and number format that ComfyUI expects of node outputs."""

import comfy.model_management
import torch


def handed_on(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as the host's own nodes hand theirs on: in half precision under `--fp16-intermediates`."""
    # ComfyUI 0.3.75 knows only float32 there.
    dtype = getattr(comfy.model_management, "intermediate_dtype", lambda: torch.float32)()
    return tensor.to(comfy.model_management.intermediate_device(), dtype)
