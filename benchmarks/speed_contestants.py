"""Three ways to compute one evaluation of four videos, each built from the same random UNet in ComfyUI's names."""

import logging
from collections.abc import Callable

import torch
from host import comfyui, import_host, import_pack

import_host(comfyui())
import_pack()

import comfy.samplers  # noqa: E402
from diffusers import UNetSpatioTemporalConditionModel  # noqa: E402
from diffusers.models.attention_processor import Attention  # noqa: E402
from generative_inbetweening.sampler.guider import DualDirectionGuider, DualDirectionSettings  # noqa: E402
from generative_inbetweening.sampler.keyframe_conditioning import keyframe_conditioning  # noqa: E402
from generative_inbetweening.weights import unet_keys  # noqa: E402
from generative_inbetweening.weights.attach import attach  # noqa: E402
from generative_inbetweening.weights.backward_motion import PREFIX, is_backward_motion_key  # noqa: E402
from generative_inbetweening.weights.host_models import build_unet  # noqa: E402
from generative_inbetweening.weights.svd_parts import SVDConfig  # noqa: E402

logging.disable(logging.WARNING)

# SVD's architecture at 0.3 of its width: long enough calls to measure, small enough for a CPU.
MIDDLE_SIZE = {"block_out_channels": (96, 192, 384, 384), "num_attention_heads": (3, 6, 12, 12),
               "cross_attention_dim": 256}
HEAD_CHANNELS = 32
SIGMA, GUIDANCE = 5.0, 2.0


def middle_size_unet() -> dict[str, torch.Tensor]:
    """Random weights in ComfyUI's names."""
    torch.manual_seed(0)
    tensors = UNetSpatioTemporalConditionModel(**MIDDLE_SIZE).state_dict()
    return {name: tensors[key] for key, name in unet_keys.diffusers_to_comfy(tensors).items()}


def _inputs(frames: int, size: int):
    generator = torch.Generator().manual_seed(1)
    side, channels = size // 8, MIDDLE_SIZE["cross_attention_dim"]
    x = SIGMA * torch.randn(frames, 4, side, side, generator=generator)
    embeddings = tuple(torch.randn(1, 1, channels, generator=generator) for _ in range(2))
    latents = tuple(torch.randn(1, 4, side, side, generator=generator) for _ in range(2))
    return x, embeddings, latents


def _guider_within_sampling(guider, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    """The guider's evaluation as the host's sampler calls it, without a sampler around it."""
    captured = {}

    def keep(model, noise, sigmas, extra_args=None, callback=None, disable=None):
        captured.update(model=model, extra_args=extra_args)
        captured["result"] = run()
        return noise

    def run():
        return captured["model"](x, torch.full((x.shape[0],), SIGMA), **captured["extra_args"])

    # The host runs its nodes so.
    @torch.inference_mode()
    def evaluate():
        guider.sample(torch.zeros_like(x), torch.zeros_like(x), comfy.samplers.KSAMPLER(keep),
                      torch.tensor([SIGMA, 0.0]), disable_pbar=True, seed=0)
        return captured["result"]

    return evaluate


def ours(unet: dict[str, torch.Tensor], frames: int, size: int) -> Callable[[], torch.Tensor]:
    """One UNet, paired, with random backward-motion weights."""
    x, embeddings, latents = _inputs(frames, size)
    model = build_unet(unet, SVDConfig(num_head_channels=HEAD_CHANNELS))
    differences = {PREFIX + key: 0.01 * torch.ones_like(tensor) for key, tensor in unet.items()
                   if is_backward_motion_key(key)}
    model = attach(model, differences, 1.0, "random")
    conditioning = keyframe_conditioning(embeddings, latents, frames, 7, 127, 0.02)
    return _guider_within_sampling(DualDirectionGuider(model, *conditioning, DualDirectionSettings()), x)


def host(unet: dict[str, torch.Tensor], frames: int, size: int) -> Callable[[], torch.Tensor]:
    """The host's own guided SVD, twice: the same four videos through the unpatched model."""
    x, embeddings, latents = _inputs(frames, size)
    model = build_unet(unet, SVDConfig(num_head_channels=HEAD_CHANNELS))
    runs = []
    for embedding, latent in zip(embeddings, latents):
        positive, negative = keyframe_conditioning((embedding,) * 2, (latent,) * 2, frames, 7, 127, 0.02)
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive, negative)
        guider.set_cfg(GUIDANCE)
        runs.append(_guider_within_sampling(guider, x))
    return lambda: sum(run() for run in runs)


class StoredMaps:
    """diffusers attention processor of the released method: one UNet stores maps, the other turns and applies them."""

    def __init__(self, maps: dict[str, torch.Tensor], name: str, stores: bool):
        self.maps, self.name, self.stores = maps, name, stores

    def __call__(self, attention: Attention, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        if self.stores:
            query, key = (attention.head_to_batch_dim(project(hidden_states))
                          for project in (attention.to_q, attention.to_k))
            self.maps[self.name] = attention.get_attention_scores(query, key)
            probabilities = self.maps[self.name]
        else:
            probabilities = self.maps.pop(self.name).flip((-2, -1))
        value = attention.head_to_batch_dim(attention.to_v(hidden_states))
        return attention.to_out[0](attention.batch_to_head_dim(probabilities @ value))


def two_unets(unet: dict[str, torch.Tensor], frames: int, size: int) -> Callable[[], torch.Tensor]:
    """Two UNets of diffusers, guidance batched, maps stored between them."""
    x, embeddings, latents = _inputs(frames, size)
    names, maps, unets = unet_keys.comfy_to_diffusers(unet), {}, []
    for stores in (True, False):
        with torch.device("meta"):
            network = UNetSpatioTemporalConditionModel(**MIDDLE_SIZE).eval()
        # Each network owns its weights, as two loaded folders do.
        network.load_state_dict({names[key]: tensor.clone() for key, tensor in unet.items()}, assign=True)
        for name, module in network.named_modules():
            if name.endswith("temporal_transformer_blocks.0.attn1"):
                module.set_processor(StoredMaps(maps, name, stores))
        unets.append(network)
    time_ids = torch.tensor([[6.0, 127.0, 0.02]]).repeat(2, 1)

    @torch.no_grad()
    def evaluate():
        results = []
        for network, embedding, latent, noisy in zip(unets, embeddings, latents, (x, x.flip(0))):
            picture = torch.stack([torch.zeros_like(latent), latent]).expand(-1, frames, -1, -1, -1)
            sample = torch.cat([(noisy / (SIGMA ** 2 + 1) ** 0.5).expand(2, -1, -1, -1, -1), picture], dim=2)
            context = torch.cat([torch.zeros_like(embedding), embedding])
            uncond, cond = network(sample, 0.25 * torch.tensor(SIGMA).log(), context, time_ids).sample
            results.append(uncond + GUIDANCE * (cond - uncond))
        return (results[0] + results[1].flip(0)) / 2

    return evaluate


CONTESTANTS = {"ours": ours, "host": host, "two_unets": two_unets}
