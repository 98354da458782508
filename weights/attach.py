"""Puts backward-motion weights beside a host MODEL: loaded with the UNet, counted in its memory, never copied."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch

from ..common.errors import WeightsError
from .backward_motion import check_fits, is_backward_motion_key, layers, read_backward_motion
from .host import check_layout, core_patcher, is_dynamic, layout_of, remember_factory

ATTACHMENT = "inbetween_backward_motion"
_MATRICES = {"to_v": "to_v", "to_out": "to_out.0"}


class BackwardMotion(torch.nn.Module):
    """The differences of 16 × (`to_v`, `to_out.0`) as linear layers, to be added to the base layers' results."""

    def __init__(self, differences: Mapping[str, torch.Tensor]):
        super().__init__()
        self.names = layers(differences)
        self.layers = torch.nn.ModuleDict(
            {
                _module_name(layer): torch.nn.ModuleDict(
                    {name: _linear(differences[f"{layer}.{key}.weight"]) for name, key in _MATRICES.items()}
                )
                for layer in self.names
            }
        )
        # By place and kind of loading. Underscored, so that a resume key does not take it for part of the weights.
        self._copies: dict[tuple[torch.device, bool], comfy.model_patcher.ModelPatcher] = {}

    def layer(self, name: str) -> torch.nn.ModuleDict:
        """`to_v` and `to_out` of the temporal self-attention `name`, e.g. `diffusion_model.….time_stack.0.attn1`."""
        return cast(torch.nn.ModuleDict, self.layers[_module_name(name)])

    def copy_for(self, model: comfy.model_patcher.ModelPatcher) -> comfy.model_patcher.ModelPatcher:
        """The patcher of a copy that is where the model's UNet is and loaded as it is; made once."""
        place = _place(model)
        if place not in self._copies:
            self._copies[place] = _patcher(BackwardMotion(self.differences()), model)
        return self._copies[place]

    def differences(self) -> dict[str, torch.Tensor]:
        """The differences in ordinary memory, by their names in the file."""
        return {
            f"{layer}.{key}.weight": self.layer(layer)[name].get_parameter("weight").detach().to("cpu", copy=True)
            for layer in self.names
            for name, key in _MATRICES.items()
        }


@dataclass
class AttachedBackwardMotion:
    """What rides on the MODEL: the differences and how much of them to add (0 = base weights, 1 = as trained)."""

    weights: BackwardMotion
    strength: float


def attach(
    model: comfy.model_patcher.ModelPatcher,
    differences: Mapping[str, torch.Tensor],
    strength: float,
    file_name: str,
    path: Path | None = None,
) -> comfy.model_patcher.ModelPatcher:
    """A clone of `model` that carries the backward-motion weights; `model` itself is not changed.

    `path`: the file that they can be read from again. Raises WeightsError when they do not fit the model.
    """
    check_fits(differences, _matrix_shapes(model), file_name)
    clone = model.clone()
    weights = BackwardMotion(differences)
    patcher = _patcher(weights, model)
    if path is not None:
        remember_factory(patcher, backward_motion_patcher, path, layout_of(differences))
    # As an additional model of its own, so that the host moves it with the UNet and counts its memory.
    clone.set_additional_models(ATTACHMENT, [patcher])
    clone.set_attachments(ATTACHMENT, AttachedBackwardMotion(weights, strength))
    return clone


def backward_motion_patcher(path: str, loaded: str, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """The patcher of the differences again, read from their file; `loaded`: the layout of what was loaded.

    Raises WeightsError when another model's have taken the file's place.
    """
    try:
        differences, _ = read_backward_motion(Path(path))
        check_layout(Path(path), layout_of(differences), loaded)
    except WeightsError as error:
        raise WeightsError(f"Load Backward Motion Weights, backward_motion: {error}") from error
    return core_patcher(
        BackwardMotion(differences),
        comfy.model_management.get_torch_device(),
        comfy.model_management.unet_offload_device(),
        disable_dynamic,
    )


def beside_its_weights(model: comfy.model_patcher.ModelPatcher) -> comfy.model_patcher.ModelPatcher:
    """The model, or a clone of it whose backward-motion weights are where its UNet is and loaded as it is.

    The host's nodes that move a model or compile it move its UNet only.
    """
    additional = model.get_additional_models_with_key(ATTACHMENT)
    attached: AttachedBackwardMotion | None = model.get_attachment(ATTACHMENT)
    if not additional or attached is None:
        return model
    patcher = additional[0]
    if _place(patcher) != _place(model):
        patcher = patcher.model.copy_for(model)
    if attached.weights is patcher.model:
        return model
    clone = model.clone()
    clone.set_additional_models(ATTACHMENT, [patcher])
    clone.set_attachments(ATTACHMENT, AttachedBackwardMotion(patcher.model, attached.strength))
    return clone


def _place(patcher: comfy.model_patcher.ModelPatcher) -> tuple[torch.device, bool]:
    return patcher.load_device, is_dynamic(patcher)


def _patcher(weights: BackwardMotion, model: comfy.model_patcher.ModelPatcher) -> comfy.model_patcher.ModelPatcher:
    return core_patcher(weights, model.load_device, model.offload_device, disable_dynamic=not is_dynamic(model))


def _matrix_shapes(model: comfy.model_patcher.ModelPatcher) -> dict[str, torch.Size]:
    shapes = {
        name: parameter.shape for name, parameter in model.model.named_parameters() if is_backward_motion_key(name)
    }
    if not shapes:
        raise WeightsError(
            "model: expected Stable Video Diffusion, found a model without temporal attention. Connect Load SVD Model."
        )
    return shapes


def _linear(weight: torch.Tensor) -> torch.nn.Linear:
    linear = comfy.ops.manual_cast.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
    return linear


def _module_name(layer: str) -> str:
    # ModuleDict allows no dots in a key.
    return layer.replace(".", "_")
