"""Four ways to compute one evaluation of four videos, each built from the same random UNet in ComfyUI's names."""

import logging
from collections.abc import Callable

import comfy.model_management
import comfy.samplers
import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.attention_processor import Attention
from generative_inbetweening.common.latents import latent_shape
from generative_inbetweening.sampler.conditioning import keyframe_conditioning
from generative_inbetweening.sampler.guider import DualDirectionGuider
from generative_inbetweening.sampler.settings import GuiderSettings
from generative_inbetweening.weights.attach import attach
from generative_inbetweening.weights.backward_motion import PREFIX, is_backward_motion_key
from generative_inbetweening.weights.host import build_unet
from generative_inbetweening.weights.keys import unet as unet_keys
from generative_inbetweening.weights.svd import SVDConfig

logging.disable(logging.WARNING)

# SVD's architecture at 0.4 of its width, 241 M parameters: long enough calls to measure, small enough for a CPU.
MIDDLE_SIZE = {
    "block_out_channels": (128, 256, 512, 512),
    "num_attention_heads": (2, 4, 8, 8),
    "cross_attention_dim": 256,
}
HEAD_CHANNELS = 64
SIGMA, GUIDANCE = 5.0, 2.0


def middle_size_unet() -> dict[str, torch.Tensor]:
    """Random weights in ComfyUI's names."""
    torch.manual_seed(0)
    tensors = UNetSpatioTemporalConditionModel(**MIDDLE_SIZE).state_dict()
    return {name: tensors[key] for key, name in unet_keys.diffusers_to_comfy(tensors).items()}


def finish() -> None:
    """Waits until the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def clip_inputs(frames: int, size: int):
    """(noisy latents `[frames, 4, size/8, size/8]`, two embeddings, two latents) of random numbers."""
    generator = torch.Generator().manual_seed(1)
    channels = MIDDLE_SIZE["cross_attention_dim"]
    x = SIGMA * torch.randn(latent_shape(frames, size, size), generator=generator)
    embeddings = tuple(torch.randn(1, 1, channels, generator=generator) for _ in range(2))
    latents = tuple(torch.randn(latent_shape(1, size, size), generator=generator) for _ in range(2))
    return x, embeddings, latents


def guider_within_sampling(guider, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    """The guider's evaluation as the host's sampler calls it, without a sampler around it."""
    captured = {}

    def keep(model, noise, sigmas, extra_args=None, callback=None, disable=None):
        captured.update(model=model, extra_args=extra_args, x=x.to(noise.device))
        captured["result"] = run()
        return noise

    def run():
        sigma = torch.full((x.shape[0],), SIGMA, device=captured["x"].device)
        return captured["model"](captured["x"], sigma, **captured["extra_args"])

    # The host runs its nodes so.
    @torch.inference_mode()
    def evaluate():
        guider.sample(
            torch.zeros_like(x),
            torch.zeros_like(x),
            comfy.samplers.KSAMPLER(keep),
            torch.tensor([SIGMA, 0.0]),
            disable_pbar=True,
            seed=0,
        )
        return captured["result"]

    return evaluate


def our_model(unet: dict[str, torch.Tensor]):
    """The host's MODEL with random backward-motion weights."""
    differences = {
        PREFIX + key: 0.01 * torch.ones_like(tensor) for key, tensor in unet.items() if is_backward_motion_key(key)
    }
    return attach(build_unet(unet, SVDConfig(num_head_channels=HEAD_CHANNELS)), differences, 1.0, "random")


def our_guider(model, frames: int, size: int, order: str = "2") -> DualDirectionGuider:
    """The guider on our model."""
    _, embeddings, latents = clip_inputs(frames, size)
    conditioning = keyframe_conditioning(embeddings, latents, frames, 7, 127, 0.02)
    return DualDirectionGuider(model, *conditioning, GuiderSettings(videos_per_call=order))


def ours(unet: dict[str, torch.Tensor], frames: int, size: int, order: str = "2") -> Callable[[], torch.Tensor]:
    """One UNet for both directions."""
    return guider_within_sampling(our_guider(our_model(unet), frames, size, order), clip_inputs(frames, size)[0])


def ours_sequential(unet: dict[str, torch.Tensor], frames: int, size: int) -> Callable[[], torch.Tensor]:
    """As `ours` where memory is short: one video at a time, the maps kept between the directions."""
    return ours(unet, frames, size, "1")


def host(unet: dict[str, torch.Tensor], frames: int, size: int) -> Callable[[], torch.Tensor]:
    """The host's own guided SVD, twice: the same four videos through the unpatched model."""
    x = clip_inputs(frames, size)[0]
    runs = [guider_within_sampling(guider, x) for guider in host_guiders(unet, frames, size)]
    return lambda: sum(run() for run in runs)


def host_guiders(unet: dict[str, torch.Tensor], frames: int, size: int) -> list[comfy.samplers.CFGGuider]:
    """The host's own guider on its unpatched model, once for each keyframe."""
    _, embeddings, latents = clip_inputs(frames, size)
    model = build_unet(unet, SVDConfig(num_head_channels=HEAD_CHANNELS))
    guiders = []
    for embedding, latent in zip(embeddings, latents):
        positive, negative = keyframe_conditioning((embedding,) * 2, (latent,) * 2, frames, 7, 127, 0.02)
        guiders.append(comfy.samplers.CFGGuider(model))
        guiders[-1].set_conds(positive, negative)
        guiders[-1].set_cfg(GUIDANCE)
    return guiders


class StoredMaps:
    """diffusers attention processor of the released method: one UNet stores maps, the other turns and applies them."""

    def __init__(self, maps: dict[str, torch.Tensor], name: str, stores: bool):
        self.maps, self.name, self.stores = maps, name, stores

    def __call__(self, attention: Attention, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        if self.stores:
            query, key = (
                attention.head_to_batch_dim(project(hidden_states)) for project in (attention.to_q, attention.to_k)
            )
            self.maps[self.name] = attention.get_attention_scores(query, key)
            probabilities = self.maps[self.name]
        else:
            probabilities = self.maps.pop(self.name).flip((-2, -1))
        value = attention.head_to_batch_dim(attention.to_v(hidden_states))
        return attention.to_out[0](attention.batch_to_head_dim(probabilities @ value))


def store_maps(networks: list[UNetSpatioTemporalConditionModel]) -> None:
    """Lets the first UNet store its temporal attention maps and the second apply them."""
    maps: dict[str, torch.Tensor] = {}
    for network, stores in zip(networks, (True, False)):
        for name, module in network.named_modules():
            if name.endswith("temporal_transformer_blocks.0.attn1"):
                module.set_processor(StoredMaps(maps, name, stores))


def two_unets(unet: dict[str, torch.Tensor], frames: int, size: int) -> Callable[[], torch.Tensor]:
    """Two UNets of diffusers, guidance batched, maps stored between them."""
    x, embeddings, latents = clip_inputs(frames, size)
    names, unets = unet_keys.comfy_to_diffusers(unet), []
    device, dtype = comfy.model_management.get_torch_device(), comfy.model_management.unet_dtype()
    for _ in range(2):
        with torch.device("meta"):
            network = UNetSpatioTemporalConditionModel(**MIDDLE_SIZE).eval()
        # Each network owns its weights, as two loaded folders do.
        weights = {names[key]: tensor.to(device, dtype, copy=True) for key, tensor in unet.items()}
        network.load_state_dict(weights, assign=True)
        unets.append(network)
    store_maps(unets)
    time_ids = torch.tensor([[6.0, 127.0, 0.02]], device=device).repeat(2, 1)
    x, embeddings, latents = (
        x.to(device, dtype),
        *([each.to(device, dtype) for each in keyframes] for keyframes in (embeddings, latents)),
    )

    @torch.no_grad()
    def evaluate():
        results = []
        for network, embedding, latent, noisy in zip(unets, embeddings, latents, (x, x.flip(0))):
            picture = torch.stack([torch.zeros_like(latent), latent]).expand(-1, frames, -1, -1, -1)
            sample = torch.cat([(noisy / (SIGMA**2 + 1) ** 0.5).expand(2, -1, -1, -1, -1), picture], dim=2)
            context = torch.cat([torch.zeros_like(embedding), embedding])
            uncond, cond = network(sample, 0.25 * torch.tensor(SIGMA).log(), context, time_ids).sample
            results.append(uncond + GUIDANCE * (cond - uncond))
        return (results[0] + results[1].flip(0)) / 2

    return evaluate


CONTESTANTS = {"ours": ours, "ours_sequential": ours_sequential, "host": host, "two_unets": two_unets}
