"""An evaluation of SVD-XT's own size on a CUDA device that pretends to be a smaller card.

Random weights, 1024×576, 25 frames, the order of work chosen by itself. Torch is held to the limit, and the host is
told of no more memory than that, so that it offloads weights and the guider chooses as on such a card.
"""

import json
import statistics
import subprocess
import sys

import comfy.cli_args
import comfy.model_management
import torch
from diffusers import UNetSpatioTemporalConditionModel
from generative_inbetweening.benchmarks.speed.contestants import SIGMA, guider_within_sampling
from generative_inbetweening.benchmarks.speed.whole_clip import timed
from generative_inbetweening.sampler.conditioning import keyframe_conditioning
from generative_inbetweening.sampler.guider import DualDirectionGuider
from generative_inbetweening.sampler.settings import GuiderSettings
from generative_inbetweening.training.memory import GIB, configurations
from generative_inbetweening.training.settings import Settings
from generative_inbetweening.weights.attach import attach
from generative_inbetweening.weights.backward_motion import PREFIX, is_backward_motion_key
from generative_inbetweening.weights.host import build_unet
from generative_inbetweening.weights.keys import unet as unet_keys
from generative_inbetweening.weights.svd import SVDConfig

FORMATS = {"fp16": torch.float16, "bf16": torch.bfloat16}
CARDS = (8, 12, 16, 24)
FRAMES, HEIGHT, WIDTH = 25, 72, 128


def on_cuda() -> list[dict]:
    """One entry for each number format and card that the device can be; empty without a CUDA device."""
    if not torch.cuda.is_available():
        return []
    total = torch.cuda.get_device_properties(0).total_memory
    results = []
    for number_format in FORMATS:
        for card in (card for card in CARDS if card * 1e9 <= total):
            command = [
                sys.executable,
                "-m",
                "generative_inbetweening.benchmarks.speed",
                "--pretend-card",
                str(card),
                "--number-format",
                number_format,
            ]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            found = (
                json.loads(done.stdout.splitlines()[-1])
                if not done.returncode
                else {"error": (done.stderr.splitlines() or ["no message"])[-1]}
            )
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
    differences = {
        PREFIX + key: 0.01 * torch.ones_like(tensor) for key, tensor in tensors.items() if is_backward_motion_key(key)
    }
    model = attach(build_unet(tensors, SVDConfig()), differences, 1.0, "random")
    del tensors
    keyframes = [torch.randn(2, 1, 1, 1024), torch.randn(2, 1, 4, HEIGHT, WIDTH)]
    conditioning = keyframe_conditioning(*(tuple(each) for each in keyframes), FRAMES, 7, 127, 0.02)
    guider = DualDirectionGuider(model, *conditioning, GuiderSettings())
    evaluate = guider_within_sampling(guider, SIGMA * torch.randn(FRAMES, 4, HEIGHT, WIDTH))
    evaluate()
    torch.cuda.reset_peak_memory_stats()
    seconds = statistics.median(timed(evaluate) for _ in range(repeats))
    return {
        "seconds": seconds,
        "videos_per_call": guider._order,
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
