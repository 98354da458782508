"""Whether clips of a size fit into memory and onto the disk, said before the first, with the size that would fit."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from ...common.latents import LATENT_PIXELS
from ...common.live_bytes import GIB
from ...sampler.memory_limit import largest_size, memory_limit
from ..common.options import OptionError
from ..common.peak_memory import resident_bytes
from ..speed.full_size import UNCOUNTED, WASTE, activations, meta_unet, ours, with_margin

_ONE_VIDEO_A_CALL = [["forward"], ["backward"]]
_COPIES = 8
"""Of a clip's frames in float32 at once: the true ones, those just made, and those that a metric works on."""
_STRIP = 0.7
"""Bytes of a video on the disk over those of its pixels, for film without much noise."""


@dataclass(frozen=True)
class Need:
    """Bytes: `weights` for every size; `clip` for one of this size."""

    weights: int
    clip: int

    @property
    def total(self) -> float:
        """With a margin for what cannot be counted."""
        return with_margin(self.weights + self.clip)


def check_memory(methods, frames: int, width: int, height: int) -> str:
    """A sentence of what a clip needs, at one video a call, and of what there is.

    `methods`: those of the benchmark, whose models are asked. Raises OptionError, with the size that fits.
    """
    device = methods.base.load_device
    needed, there = need(methods, frames, width, height), available(device)
    what = f"{frames} frames at {width}x{height} take about {needed.total / GIB:.1f} GiB"
    if needed.total > there:
        room = (there - UNCOUNTED) / WASTE - needed.weights
        positions = room / needed.clip * (width // LATENT_PIXELS) * (height // LATENT_PIXELS)
        size = largest_size(positions, height // LATENT_PIXELS, width // LATENT_PIXELS)
        advice = f"--width {size[0]} --height {size[1]} fits" if size else "no size fits: give fewer --frames"
        raise OptionError(
            f"--width, --height: expected clips that fit into the {there / GIB:.1f} GiB of {_name(device)}, found that "
            f"{what}. With --frames {frames}, {advice}."
        )
    return f"{what} of the {there / GIB:.1f} GiB of {_name(device)}, at one video a call."


def need(methods, frames: int, width: int, height: int) -> Need:
    """What the models' weights take, and what a clip of that size takes beside them.

    On a GPU the host moves out all weights but those at work; one layer has to be there.
    """
    model, device = methods.base, methods.base.load_device
    latent = height // LATENT_PIXELS, width // LATENT_PIXELS
    config = {name: value for name, value in model.model.model_config.unet_config.items() if name != "device"}
    config["dtype"] = model.model.manual_cast_dtype or model.model.get_dtype()
    unet = meta_unet(config)
    clip = activations(lambda: ours(unet, _ONE_VIDEO_A_CALL, frames, *latent, config["context_dim"]), unet)
    if device.type == "cpu":
        weights = model.model_size() + sum(each.patcher.model_size() for each in (methods.vae, methods.clip_vision))
        return Need(weights, clip + _COPIES * frames * 3 * width * height * 4)
    layers = (module for module in model.model.diffusion_model.modules() if not list(module.children()))
    return Need(max(sum(each.numel() * each.element_size() for each in layer.parameters()) for layer in layers), clip)


def available(device: torch.device) -> float:
    """Bytes that this process can have on the device, those that it has among them."""
    if device.type == "cpu":
        return psutil.virtual_memory().available + resident_bytes()
    return memory_limit(device) or torch.cuda.get_device_properties(device).total_memory


def check_disk(out: Path, videos: int, frames: int, width: int, height: int) -> None:
    """Raises OptionError when the disk has no room for so many videos."""
    needed, there = videos * frames * 3 * width * height * _STRIP, shutil.disk_usage(out).free
    if needed > there:
        raise OptionError(
            f"--out: expected room for {videos} videos, about {needed / 1e9:.1f} GB, found {there / 1e9:.1f} GB free "
            f"at {out}. Give fewer --clips or --methods, or another folder."
        )


def _name(device: torch.device) -> str:
    return "free memory" if device.type == "cpu" else str(device)
