"""An evaluation of SVD-XT's own size on a CUDA device that pretends to be a smaller card.

Random weights, 1024×576, 25 frames, videos a call chosen by itself. Torch is held to the limit, and the host is
told of no more memory than that, so that it offloads weights and the guider chooses as on such a card.
"""

import statistics

import comfy.cli_args
import comfy.model_management
import torch
from diffusers import UNetSpatioTemporalConditionModel

from ...common.live_bytes import GIB
from ...sampler.conditioning import keyframe_conditioning
from ...sampler.guider import DualDirectionGuider
from ...sampler.settings import GuiderSettings
from ...training.memory import configurations
from ...training.settings import Settings
from ...weights.attach import attach
from ...weights.convert import PRECISIONS
from ...weights.host import build_unet
from ...weights.keys import unet as unet_keys
from ...weights.svd import SVDConfig
from ..common.processes import in_own_process
from .contestants import SIGMA, guider_within_sampling, random_differences, timed
from .full_size import CARDS, FRAMES, LATENT_HEIGHT, LATENT_WIDTH

FORMATS = {name: PRECISIONS[name] for name in ("fp16", "bf16")}


def on_cuda() -> list[dict]:
    """One entry for each number format and card that the device can be; empty without a CUDA device."""
    if not torch.cuda.is_available():
        return []
    total = torch.cuda.get_device_properties(0).total_memory
    results = []
    for number_format in FORMATS:
        for card in (card for card in CARDS if card * 1e9 <= total):
            try:
                found = in_own_process(evaluation_here, number_format, card)
            # Whatever ends one of them is its result.
            except Exception as error:  # noqa: BLE001
                found = {"error": f"{error}".partition("\n")[0]}
            results.append({"card_gb": card, "number_format": number_format, **found})
    return results


def pretend_card(gigabytes: float) -> None:
    """Holds torch to so much of the device, and lets the host see no more."""
    limit, seen = gigabytes * 1e9, torch.cuda.mem_get_info
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(limit / total)
    torch.cuda.mem_get_info = lambda device=None: (max(0, int(seen(device)[0] - (total - limit))), int(limit))


def evaluation_here(number_format: str, card: float, repeats: int = 3) -> dict:
    """Seconds of an evaluation and the peak of torch's memory, in this process."""
    setattr(comfy.cli_args.args, f"{number_format}_unet", True)
    pretend_card(card)
    tensors = full_size_unet(FORMATS[number_format])
    model = attach(build_unet(tensors, SVDConfig()), random_differences(tensors), 1.0, "random")
    del tensors
    keyframes = [torch.randn(2, 1, 1, 1024), torch.randn(2, 1, 4, LATENT_HEIGHT, LATENT_WIDTH)]
    conditioning = keyframe_conditioning(*(tuple(each) for each in keyframes), FRAMES, 7, 127, 0.02)
    videos = []

    def count(apply_model, arguments):
        videos.append(len(arguments["input"]) // FRAMES)
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    model.set_model_unet_function_wrapper(count)
    guider = DualDirectionGuider(model, *conditioning, GuiderSettings())
    evaluate = guider_within_sampling(guider, SIGMA * torch.randn(FRAMES, 4, LATENT_HEIGHT, LATENT_WIDTH))
    evaluate()
    torch.cuda.reset_peak_memory_stats()
    seconds = statistics.median(timed(evaluate) for _ in range(repeats))
    return {
        "seconds": seconds,
        "videos_per_call": str(videos[-1]),
        "allocated_gib": torch.cuda.max_memory_allocated() / GIB,
        "reserved_gib": torch.cuda.max_memory_reserved() / GIB,
    }


def full_size_unet(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Random weights of SVD-XT's shapes in ComfyUI's names."""
    config, _ = configurations(Settings())
    with torch.device("meta"):
        shapes = UNetSpatioTemporalConditionModel.from_config(config).state_dict()
    torch.manual_seed(0)
    return {
        name: (0.02 * torch.randn(shapes[key].shape)).to(dtype)
        for key, name in unet_keys.diffusers_to_comfy(shapes).items()
    }
