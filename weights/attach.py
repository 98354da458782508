"""Puts backward-motion weights beside a host MODEL: loaded with the UNet, counted in its memory, never copied."""

from collections.abc import Mapping
from dataclasses import dataclass

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch

from . import backward_motion
from .errors import WeightsError

ATTACHMENT = "inbetween_backward_motion"


class BackwardMotion(torch.nn.Module):
    """The differences of 16 × (`to_v`, `to_out.0`) as linear layers, to be added to the base layers' results."""

    def __init__(self, differences: Mapping[str, torch.Tensor]):
        super().__init__()
        self.layers = torch.nn.ModuleDict()
        for layer in backward_motion.layers(differences):
            matrices = {name: _linear(differences[f"{layer}.{key}.weight"])
                        for name, key in (("to_v", "to_v"), ("to_out", "to_out.0"))}
            self.layers[_module_name(layer)] = torch.nn.ModuleDict(matrices)

    def layer(self, name: str) -> torch.nn.ModuleDict:
        """`to_v` and `to_out` of the temporal attention `name`, e.g. `diffusion_model.….time_stack.0.attn1`."""
        return self.layers[_module_name(name)]


@dataclass
class AttachedBackwardMotion:
    """What rides on the MODEL: the differences and how much of them to add (0 = base weights, 1 = as trained)."""
    weights: BackwardMotion
    strength: float


def attach(model: comfy.model_patcher.ModelPatcher, differences: Mapping[str, torch.Tensor], strength: float,
           file_name: str) -> comfy.model_patcher.ModelPatcher:
    """A clone of `model` that carries the backward-motion weights; `model` itself is not changed.

    Raises WeightsError when the differences do not fit the model.
    """
    backward_motion.check_fits(differences, _matrix_shapes(model), file_name)
    weights = BackwardMotion(differences)
    clone = model.clone()
    # The bank is an additional model of its own: then the host moves it with the UNet and counts its memory.
    patcher = comfy.model_patcher.ModelPatcher(weights, load_device=model.load_device,
                                               offload_device=comfy.model_management.unet_offload_device())
    clone.set_additional_models(ATTACHMENT, [patcher])
    clone.set_attachments(ATTACHMENT, AttachedBackwardMotion(weights, strength))
    return clone


def _matrix_shapes(model: comfy.model_patcher.ModelPatcher) -> dict[str, torch.Size]:
    shapes = {name: parameter.shape for name, parameter in model.model.named_parameters()
              if backward_motion.is_backward_motion_key(name)}
    if not shapes:
        raise WeightsError("model: expected Stable Video Diffusion, found a model without temporal attention. "
                           "Connect Load SVD Model.")
    return shapes


def _linear(weight: torch.Tensor) -> torch.nn.Linear:
    linear = comfy.ops.manual_cast.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
    return linear


def _module_name(layer: str) -> str:
    # ModuleDict allows no dots in a key.
    return layer.replace(".", "_")
