"""Four ways to compute one evaluation of four videos, each built from the same random UNet in ComfyUI's names."""

import logging
import time
from collections.abc import Callable

import comfy.model_management
import comfy.samplers
import torch
from diffusers import UNetSpatioTemporalConditionModel

from ...common.latents import latent_shape
from ...sampler.conditioning import keyframe_conditioning
from ...sampler.guider import DualDirectionGuider
from ...sampler.settings import GuiderSettings
from ...training import edm
from ...weights.attach import attach
from ...weights.backward_motion import PREFIX, is_backward_motion_key
from ...weights.host import build_unet
from ...weights.keys import unet as unet_keys
from ...weights.svd import SVDConfig
from ..common.two_unets import MIDDLE_SIZE, share_maps

logging.disable(logging.WARNING)

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


def random_differences(unet: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Backward-motion weights of the right shapes."""
    return {PREFIX + key: 0.01 * torch.ones_like(tensor) for key, tensor in unet.items() if is_backward_motion_key(key)}


def timed(work: Callable[[], object]) -> float:
    """Seconds until the device has done it."""
    finish()
    start = time.perf_counter()
    work()
    finish()
    return time.perf_counter() - start


def timed_in_turn(contestants: dict, repeats: int) -> dict:
    """{name: seconds of each round}, one after the other in every round; the first round does not count."""
    seconds = {name: [] for name in contestants}
    for number in range(repeats + 1):
        for name, work in contestants.items():
            taken = timed(work)
            if number:
                seconds[name].append(taken)
    return seconds


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
    return attach(build_unet(unet, SVDConfig(num_head_channels=HEAD_CHANNELS)), random_differences(unet), 1.0, "random")


def our_guider(model, frames: int, size: int, videos_per_call: str = "2") -> DualDirectionGuider:
    """The guider on our model."""
    _, embeddings, latents = clip_inputs(frames, size)
    conditioning = keyframe_conditioning(embeddings, latents, frames, 7, 127, 0.02)
    return DualDirectionGuider(model, *conditioning, GuiderSettings(videos_per_call=videos_per_call))


def ours(
    unet: dict[str, torch.Tensor], frames: int, size: int, videos_per_call: str = "2"
) -> Callable[[], torch.Tensor]:
    """One UNet for both directions."""
    return guider_within_sampling(
        our_guider(our_model(unet), frames, size, videos_per_call), clip_inputs(frames, size)[0]
    )


def ours_one_video(unet: dict[str, torch.Tensor], frames: int, size: int) -> Callable[[], torch.Tensor]:
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
    share_maps(*unets)
    sigma = torch.full((2,), SIGMA, device=device, dtype=dtype)
    time_ids = torch.tensor([[6.0, 127.0, 0.02]], device=device).repeat(2, 1)
    x, embeddings, latents = (
        x.to(device, dtype),
        *([each.to(device, dtype) for each in keyframes] for keyframes in (embeddings, latents)),
    )

    @torch.no_grad()
    def evaluate():
        results = []
        for network, embedding, latent, noisy in zip(unets, embeddings, latents, (x, x.flip(0))):
            pictures = torch.cat([torch.zeros_like(latent), latent])
            sample = edm.network_input(noisy.expand(2, -1, -1, -1, -1), sigma, pictures)
            context = torch.cat([torch.zeros_like(embedding), embedding])
            uncond, cond = network(sample, edm.network_time(sigma.float()), context, time_ids).sample
            results.append(uncond + GUIDANCE * (cond - uncond))
        return (results[0] + results[1].flip(0)) / 2

    return evaluate


CONTESTANTS = {"ours": ours, "ours_one_video": ours_one_video, "host": host, "two_unets": two_unets}
