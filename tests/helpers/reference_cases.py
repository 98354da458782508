"""Recorded runs of the authors' pipeline, and the real nodes run with the same weights, pictures and noise."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from comfy_extras.nodes_custom_sampler import BasicScheduler, KSamplerSelect, SamplerCustomAdvanced
from generative_inbetweening.nodes import (
    InbetweenDualDirectionGuider,
    InbetweenEncodeKeyframes,
    InbetweenReinjectionSampler,
)
from generative_inbetweening.sampler import keyframes as encode
from generative_inbetweening.sampler.unet_patches import UNET_CALL
from PIL import Image
from safetensors import safe_open

from helpers.model_folders import OWN_REFERENCE, REFERENCE
from helpers.wide_models import write_models

VAE_SCALE = 0.18215


@dataclass
class Case:
    """One recorded run: its settings and tensors (named as in the authors' pipeline)."""

    name: str
    settings: dict
    tensors: dict[str, torch.Tensor]

    def picture(self, which: str) -> torch.Tensor:
        """A keyframe as ComfyUI's IMAGE, `[1, height, width, 3]`."""
        image = Image.open(REFERENCE / f"{self.name}.{which}.png").convert("RGB")
        return torch.from_numpy(np.asarray(image).astype(np.float32) / 255)[None]


def case_names() -> list[str]:
    return sorted(path.stem for path in REFERENCE.glob("*.safetensors"))


def read_case(name: str) -> Case:
    with safe_open(REFERENCE / f"{name}.safetensors", "pt") as file:
        return Case(name, json.loads(file.metadata()["case"]), {key: file.get_tensor(key) for key in file.keys()})


def recorded_models(folder: Path) -> Path:
    """The diffusers folders that the recordings were made with: beside them, or made in `folder` for our own."""
    if REFERENCE != OWN_REFERENCE:
        return REFERENCE
    write_models(folder)
    return folder


def encode_case(case: Case, clip_vision, vae, monkeypatch):
    """Encode Keyframes with the recorded augmentation noise."""
    noise = case.tensors["augmentation_noise"]
    monkeypatch.setattr(encode, "seeded_noise", lambda shape, seed: noise.reshape(shape))
    s = case.settings
    return InbetweenEncodeKeyframes.execute(
        clip_vision,
        vae,
        s["width"],
        s["height"],
        s["frames"],
        s.get("fps", 7),
        s.get("bucket", 127),
        s.get("aug", 0.02),
        0,
        "crop",
        case.picture("first"),
        case.picture("last"),
    ).args


class RecordedNoise:
    """NOISE for SamplerCustomAdvanced: the recorded first latents."""

    seed = 0

    def __init__(self, noise: torch.Tensor):
        self.noise = noise

    def generate_noise(self, latent: dict) -> torch.Tensor:
        return self.noise


@dataclass
class Result:
    """A run's tensors, named and shaped as the recorded ones, and the host's latent."""

    tensors: dict[str, torch.Tensor]
    samples: dict


def sample_case(
    case: Case,
    model,
    positive,
    negative,
    latent,
    videos_per_call: str = "2",
    strategy: str = "dual-direction",
    temporal_attention: str = "rotated",
    sigmas: torch.Tensor | None = None,
) -> Result:
    """The recorded run through the guider, the re-injection sampler and the host's SamplerCustomAdvanced."""
    s, seen = case.settings, {}
    model = model.clone()
    model.set_model_unet_function_wrapper(_recorder(seen))
    (guider,) = InbetweenDualDirectionGuider.execute(
        model,
        positive,
        negative,
        guidance_min=s.get("min_cfg", 1.0),
        guidance_max=s.get("max_cfg", 3.0),
        fusion="weighted" if s["weighted_average"] else "average",
        strategy=strategy,
        temporal_attention=temporal_attention,
        videos_per_call=videos_per_call,
    ).args
    (sampler,) = KSamplerSelect.execute("euler").args
    (sampler,) = InbetweenReinjectionSampler.execute(sampler, s["inject_steps"], s["inject_ratio"]).args
    injected = case.tensors.get("injected_noise")
    sampler.extra_options["draw_noise"] = lambda shape, draw: injected[draw].reshape(shape)
    sigmas = case.tensors["sigmas"] if sigmas is None else sigmas
    samples, _ = SamplerCustomAdvanced.execute(
        RecordedNoise(case.tensors["initial_noise"][0]), guider, sampler, sigmas, latent
    ).args
    outputs = {
        f"step0_{direction}_v_uncond_cond": torch.stack(
            [seen[half, direction][0][1] for half in ("negative", "positive")]
        )
        for direction in ("forward", "backward")
        if ("positive", direction) in seen
    }
    return Result(
        {
            **outputs,
            "evaluated_latents": torch.stack([noisy for noisy, _ in seen["positive", "forward"]]),
            "final_latents": samples["samples"] * VAE_SCALE,
        },
        samples,
    )


def schedule(case: Case, model) -> torch.Tensor:
    """The host's sigmas for the recorded number of steps."""
    return BasicScheduler.execute(model, "karras", case.settings["steps"], 1.0).args[0]


def _recorder(seen: dict):
    def wrapper(apply_model, arguments):
        x, sigma = arguments["input"], arguments["timestep"].reshape(-1, 1, 1, 1)[0]
        denoised = apply_model(x, arguments["timestep"], **arguments["c"])
        options = arguments["c"]["transformer_options"]
        parts = zip(
            options["cond_or_uncond"],
            options[UNET_CALL].videos,
            x.chunk(len(options["cond_or_uncond"])),
            denoised.chunk(len(options["cond_or_uncond"])),
        )
        for uncond, video, noisy, estimate in parts:
            # denoised = x/(σ²+1) − v·σ/√(σ²+1)
            v = (noisy / (sigma**2 + 1) - estimate) * (sigma**2 + 1) ** 0.5 / sigma
            seen.setdefault((("positive", "negative")[uncond], video.direction), []).append((noisy, v))
        return denoised

    return wrapper
