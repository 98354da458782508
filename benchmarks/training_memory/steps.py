"""A fine-tuning step of either kind, measured in this process or counted at full size."""

import copy
import resource
import sys

import torch
from diffusers import UNetSpatioTemporalConditionModel
from torch import nn

from ...common.live_bytes import GIB, LiveBytes
from ...training import edm
from ...training.memory import configurations, fused_attention, parameter_bytes, step_inputs
from ...training.model import BackwardMotionModel, enable_gradient_checkpointing
from ...training.settings import Settings
from ...training.svd import temporal_self_attentions
from ..common.two_unets import MIDDLE_SIZE, share_maps

VARIANTS = {
    "two UNets": ("two", False),
    "two UNets, gradient checkpointing": ("two", True),
    "one UNet": ("one", False),
    "one UNet, gradient checkpointing": ("one", True),
}


class TwoUNets:
    """The released method: a frozen reference UNet and a whole trained one, attention maps kept as tensors between."""

    def __init__(self, unet: UNetSpatioTemporalConditionModel, recompute: bool) -> None:
        self.reference = unet.requires_grad_(False)
        self.trained = copy.deepcopy(unet)
        if recompute:
            self.trained.enable_gradient_checkpointing()
        share_maps(self.reference, self.trained, keep=True)
        self.trainable = []
        for layer in temporal_self_attentions(self.trained).values():
            for module in (layer.to_v, layer.to_out[0]):
                module.weight.data = module.weight.data.float()
                self.trainable.append(module.weight.requires_grad_(True))

    def __call__(self, latents, noise, sigma, first_latent, last_latent, first_embedding, last_embedding, time_ids):
        target, dtype = latents.flip(1), self.reference.dtype
        noisy, time = target + noise * edm.per_clip(sigma), edm.network_time(sigma)
        with torch.no_grad():
            forward = edm.network_input(noisy.flip(1), sigma, first_latent).to(dtype)
            self.reference(forward, time, first_embedding.to(dtype), time_ids)
        backward = edm.network_input(noisy, sigma, last_latent).to(dtype)
        prediction = self.trained(backward, time, last_embedding.to(dtype), time_ids).sample
        return edm.clip_losses(edm.denoise(prediction.float(), noisy, sigma), target, sigma)


def make_step(kind: str, unet: UNetSpatioTemporalConditionModel, recompute: bool):
    """(loss function, trained parameters) of a variant."""
    if kind == "two":
        model = TwoUNets(unet, recompute)
        return model, model.trainable
    model = BackwardMotionModel(unet, dtype=unet.dtype)
    if recompute:
        enable_gradient_checkpointing(unet)
    return model, list(model.parameters())


def measure(kind: str, recompute: bool) -> dict:
    """Two steps at the middle size in this process: peak resident memory above the start, in MB, and the losses."""
    torch.manual_seed(0)
    settings = Settings(frames=14, width=64, height=64, batch_size=1)
    before = resident_mb()
    unet = UNetSpatioTemporalConditionModel(sample_size=8, **MIDDLE_SIZE).eval()
    parameters = sum(each.numel() for each in unet.parameters())
    inputs = {name: torch.randn(value.shape).abs() + 0.1 for name, value in step_inputs(settings, unet.config).items()}
    loss_of, trained = make_step(kind, unet, recompute)
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    losses = []
    for _ in range(2):
        loss = loss_of(**inputs).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return {"peak_mb": resident_mb() - before, "process_mb": resident_mb(), "parameters": parameters, "losses": losses}


def resident_mb() -> float:
    """Peak resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def count_full_size(kind: str, recompute: bool) -> float:
    """GiB of a step of SVD at 1024x576, 14 frames, fp16: parameters and the peak of everything else."""
    settings = Settings(mixed_precision="fp16")
    with fused_attention(), torch.device("meta"):
        unet = UNetSpatioTemporalConditionModel.from_config(configurations(settings)[0])
        loss_of, trained = make_step(kind, nn.Module.to(unet, "meta", torch.float16), recompute)
        optimizer = torch.optim.AdamW(trained, lr=1e-4)
        modules = [unet, loss_of.trained] if kind == "two" else [unet, loss_of]
        with LiveBytes([each for module in modules for each in module.parameters()]) as live:
            # An empty step first: the one that counts finds the optimizer's state in place.
            for parameter in trained:
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            optimizer.zero_grad()
            loss_of(**step_inputs(settings, unet.config)).mean().backward()
            optimizer.step()
    return (sum(map(parameter_bytes, modules)) + live.peak) / GIB
