"""The host's patcher around a network, as hosts with dynamic VRAM and older ones have it."""

import comfy.model_management
import comfy.model_patcher
import torch


def core_patcher(
    network: torch.nn.Module, load_device: torch.device, offload_device: torch.device, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """The patcher that the host gives its own networks; `disable_dynamic`: one that loads whole weights, as ever."""
    # Asked for anew each time: the host puts its dynamic patcher there while it starts.
    core = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    kind = comfy.model_patcher.ModelPatcher if disable_dynamic else core
    return kind(network, load_device=load_device, offload_device=offload_device)


def is_dynamic(patcher: comfy.model_patcher.ModelPatcher) -> bool:
    """Whether the host loads this network's weights one by one, as they are used."""
    return hasattr(patcher, "is_dynamic") and patcher.is_dynamic()


def free_memory(patcher: comfy.model_patcher.ModelPatcher, device: torch.device) -> float:
    """Bytes free on the device for this patcher's network, with what dynamic VRAM can give back."""
    ask = getattr(patcher, "get_free_memory", comfy.model_management.get_free_memory)
    return ask(device)
