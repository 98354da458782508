"""Memory of an evaluation of SVD-XT at 1024×576, 25 frames, in fp16, counted tensor by tensor: nothing is computed.

The UNets run on torch's meta device with an attention that keeps no map of its own, as the fused ones of GPUs. Counted
are the weights and the peak of all other tensors of a call. No count holds the framework's context, the allocator's
waste and the workspaces of convolutions; `fits` allows half a GiB and a twentieth for them.
"""

import contextlib
from collections.abc import Callable, Iterator

import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import torch
from comfy.ldm.modules import attention as host_attention
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from diffusers import UNetSpatioTemporalConditionModel

from ...common.live_bytes import GIB, LiveBytes
from ...sampler.memory_limit import least_bytes
from ...sampler.method.attention import UNetCall, VideoInBatch
from ...sampler.unet_patches import UNET_CALL, DualDirectionInjections, injected
from ...training.memory import configurations, fused_attention, parameter_bytes
from ...training.settings import Settings
from ..common.two_unets import share_maps

FRAMES, DTYPE = 25, torch.float16
# Of the latents, for 1024×576.
LATENT_HEIGHT, LATENT_WIDTH = 72, 128
# GB of graphics memory.
CARDS = (8, 12, 16, 24)
WASTE, UNCOUNTED = 1.05, 0.5 * GIB
"""Beside the tensors: the allocator's waste, a share of them; the framework and the workspaces of convolutions."""
# The fine-tuned matrices beside the UNet: 16 × 2.
BACKWARD_MOTION_BYTES = 24_780_800 * DTYPE.itemsize
_CALLS = {"two_videos": [["forward", "backward"]], "one_video": [["forward"], ["backward"]]}
# What the host reads from a checkpoint's keys, beside what it knows of SVD.
_UNET = {
    "image_size": 32,
    "out_channels": 4,
    "num_res_blocks": [2] * 4,
    "channel_mult": (1, 2, 4, 4),
    "use_spatial_transformer": True,
    "legacy": False,
    "num_classes": "sequential",
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1] * 9 + [0] * 3,
    "video_kernel_size": [3, 1, 1],
    "extra_ff_mix_layer": True,
    "use_spatial_context": True,
    "merge_strategy": "learned_with_images",
    "merge_factor": 0.0,
}


def counted_memory() -> dict:
    """GiB of the weights and of the activations of each way, whether they fit a card, and the ratios to two UNets."""
    unet = host_unet()
    weights = parameter_bytes(unet) + BACKWARD_MOTION_BYTES
    ways = {way: (weights, activations(lambda calls=calls: ours(unet, calls), unet)) for way, calls in _CALLS.items()}
    networks = two_unets()
    ways["two_unets"] = (
        sum(parameter_bytes(each) for each in networks),
        activations(lambda: released(networks), *networks),
    )
    largest = max(parameter_bytes(module) for module in unet.modules() if not list(module.children()))
    counted = {
        way: {
            "weights_gib": size / GIB,
            "activations_gib": peak / GIB,
            "total_gib": (size + peak) / GIB,
            "fits": fitting(size + peak),
            "fits_with_offloading": fitting(largest + peak),
        }
        for way, (size, peak) in ways.items()
    }
    total = {way: size + peak for way, (size, peak) in ways.items()}
    return {
        "parameters": sum(each.numel() for each in unet.parameters()),
        "counted": counted,
        "largest_layer_gib": largest / GIB,
        "refused_below_gib": least_bytes(FRAMES, LATENT_HEIGHT, LATENT_WIDTH, unet.model_channels, DTYPE) / GIB,
        **{f"{way}_over_two_unets": total[way] / total["two_unets"] for way in _CALLS},
    }


def fitting(needed: int) -> list[int]:
    """The cards, in GB, that have room for so many bytes of tensors."""
    return [card for card in CARDS if with_margin(needed) <= card * 1e9]


def with_margin(tensors: float) -> float:
    """Bytes to have for so many bytes of tensors."""
    return WASTE * tensors + UNCOUNTED


def host_unet() -> torch.nn.Module:
    """The host's UNet of SVD-XT on the meta device."""
    stock = comfy.supported_models.SVD_img2vid
    return meta_unet({**stock.unet_config, **stock.unet_extra_config, **_UNET, "dtype": DTYPE})


def meta_unet(config: dict) -> UNetModel:
    """The host's UNet of that configuration on the meta device: shapes without numbers."""
    # `to`, because the mixing factors are made on the CPU.
    return UNetModel(**config, device="meta", operations=comfy.ops.disable_weight_init).to("meta")


def ours(
    unet: torch.nn.Module,
    calls: list[list[str]],
    frames: int = FRAMES,
    height: int = LATENT_HEIGHT,
    width: int = LATENT_WIDTH,
    context: int = 1024,
) -> None:
    """One guidance half in both directions; with one video a call the maps live from call to call.

    `height`, `width`: of the latents; `context`: channels of the image embedding.
    """
    maps: dict = {}
    network = torch.nn.ModuleDict({"diffusion_model": unet})
    patcher = comfy.model_patcher.ModelPatcher(network, torch.device("meta"), torch.device("meta"))
    with injected(patcher, DualDirectionInjections.of(patcher, lambda layer: None)):
        for directions in calls:
            call, videos = (
                UNetCall([VideoInBatch(each, 0) for each in directions], "rotated", maps),
                len(directions) * frames,
            )
            dtype = unet.dtype
            unet(
                torch.empty(videos, 8, height, width, dtype=dtype),
                torch.empty(videos),
                context=torch.empty(videos, 1, context, dtype=dtype),
                y=torch.empty(videos, 768, dtype=dtype),
                num_video_frames=frames,
                transformer_options={UNET_CALL: call},
            )


def two_unets() -> list[torch.nn.Module]:
    """Both UNets of the released method on the meta device."""
    config, _ = configurations(Settings())
    with torch.device("meta"):
        networks = [UNetSpatioTemporalConditionModel.from_config(config).eval() for _ in range(2)]
    networks = [torch.nn.Module.to(network, "meta", DTYPE) for network in networks]
    share_maps(*networks)
    return networks


def released(networks: list[torch.nn.Module]) -> None:
    """Both guidance halves in one call of the forward UNet, then of the backward one."""
    for network in networks:
        network(
            torch.empty(2, FRAMES, 8, LATENT_HEIGHT, LATENT_WIDTH, dtype=DTYPE),
            torch.empty(()),
            torch.empty(2, 1, 1024, dtype=DTYPE),
            torch.empty(2, 3),
        )


def activations(evaluate: Callable[[], None], *networks: torch.nn.Module) -> int:
    """The peak of the bytes of all tensors but the weights."""
    weights = [each for network in networks for each in (*network.parameters(), *network.buffers())]
    with torch.device("meta"), torch.no_grad(), fused_attention(), _host_attention_fused(), LiveBytes(weights) as live:
        evaluate()
    return live.peak


@contextlib.contextmanager
def _host_attention_fused() -> Iterator[None]:
    original = host_attention.optimized_attention
    host_attention.optimized_attention = host_attention.attention_pytorch
    try:
        yield
    finally:
        host_attention.optimized_attention = original
