"""For tests in the host: the stored small model loaded through the nodes, and short sampling runs with it."""

import gc

import comfy.sample
import comfy.samplers
import torch
from generative_inbetweening.common.live_bytes import LiveBytes
from generative_inbetweening.nodes import (
    InbetweenConvertBackwardMotion,
    InbetweenDualDirectionKSampler,
    InbetweenEncodeKeyframes,
    InbetweenLoadBackwardMotion,
    InbetweenLoadSVD,
    InbetweenSettings,
)

from helpers.model_folders import base_folder, folder, use_folders

SIZE, FRAMES = 64, 4
SEED = 1
# From the highest noise level to the lowest in one of two steps, float32 loses three digits; three steps keep them.
SETTINGS = {
    "steps": 3,
    "guidance_min": 1.0,
    "guidance_max": 3.0,
    "fusion": "average",
    "sampler_name": "euler",
    "scheduler": "karras",
    "reinjections": 0,
    "reinjection_share": 0.5,
    "strategy": "dual-direction",
    "temporal_attention": "rotated",
    "videos_per_call": "2",
}


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    """Two different pictures, `[1, 64, 64, 3]`."""
    across = torch.linspace(0, 1, SIZE).expand(SIZE, SIZE)
    first = torch.stack([across, across.T, 1 - across], dim=-1)
    return first[None], first.flip(1)[None]


def load_models(backward_motion: str = "tiny_backward_motion", strength: float = 1.0):
    """(model with backward motion, CLIP vision, VAE) through the nodes."""
    InbetweenConvertBackwardMotion.execute(base_folder(), folder("reverse-motion"), backward_motion, "fp32", True)
    model, clip_vision, vae = InbetweenLoadSVD.execute(folder("-xt")).args
    (model,) = InbetweenLoadBackwardMotion.execute(model, f"{backward_motion}.safetensors", strength).args
    return model, clip_vision, vae


def load(models_folder):
    """(model with backward motion, CLIP vision, VAE)."""
    use_folders(models_folder)
    return load_models()


def encode(models, frames: int = FRAMES, swapped: bool = False, alone: bool = False, **changes):
    """(positive, negative, latent) of the two pictures; `alone`: of the last one. A picture of None is left out."""
    first, last = pictures()[::-1] if swapped else pictures()
    arguments = {
        "first_keyframe": None if alone else first,
        "last_keyframe": last,
        "width": SIZE,
        "height": SIZE,
        "frames": frames,
        "fps": 7,
        "motion_bucket": 127,
        "noise_augmentation": 0.0,
        "seed": 0,
        "fit": "crop",
        **changes,
    }
    given = {name: value for name, value in arguments.items() if value is not None}
    return InbetweenEncodeKeyframes.execute(models[1], models[2], **given).args


def settings(preset: str = "paper", **changes):
    """What Dual-Direction Settings gives."""
    return InbetweenSettings.execute(preset, **{**SETTINGS, **changes}).args[0]


def sample(model, encoded, seed: int = SEED, denoise: float = 1.0, **changes) -> torch.Tensor:
    """The Dual-Direction KSampler's latents, `[frames, 4, h, w]`; `changes`: of SETTINGS."""
    latent = InbetweenDualDirectionKSampler.execute(
        model, *encoded, seed, "paper", denoise, settings=settings(**changes)
    ).args[0]
    return latent["samples"]


def plain_ksampler(model, encoded, seed: int = 1, steps: int = 2) -> torch.Tensor:
    """The host's own KSampler on the same model and conditioning."""
    positive, negative, latent = encoded
    noise = comfy.sample.prepare_noise(latent["samples"], seed)
    return comfy.sample.sample(
        model, noise, steps, 2.0, "euler", "karras", positive, negative, latent["samples"], disable_pbar=True, seed=seed
    )


def watched(model, look):
    """A clone of the model whose every UNet call is shown to `look(arguments)` first."""
    model = model.clone()

    def wrapper(apply_model, arguments):
        look(arguments)
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    model.set_model_unet_function_wrapper(wrapper)
    return model


def calling(model, look):
    """A clone of the model that calls `look(videos in the call)` before each UNet call."""
    return watched(model, lambda arguments: look(len(arguments["input"]) // FRAMES))


def unpatched(model) -> bool:
    """Whether every module of the model's UNet is as the host made it."""
    return not any("forward" in module.__dict__ for module in model.model.diffusion_model.modules())


def counting() -> LiveBytes:
    """Counts the bytes of all tensors made inside it."""
    gc.collect()
    # By its type: isinstance asks objects for their class, which some of torch's answer with a warning.
    tensors = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    # Sparse tensors of other tests have no storage of their own.
    return LiveBytes(each for each in tensors if each.layout == torch.strided)
