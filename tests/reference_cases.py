"""Recorded runs of the authors' pipeline, and the real nodes run with the same weights, pictures and noise."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import folder_paths
import numpy as np
import torch
from comfy_extras.nodes_custom_sampler import BasicScheduler, KSamplerSelect, SamplerCustomAdvanced
from generative_inbetweening.nodes import (
    InbetweenConvertBackwardMotion,
    InbetweenDualDirectionGuider,
    InbetweenEncodeKeyframes,
    InbetweenLoadBackwardMotion,
    InbetweenLoadSVD,
    InbetweenReinjectionSampler,
)
from generative_inbetweening.sampler import encode
from generative_inbetweening.sampler.unet_patches import UNET_CALL
from generative_inbetweening.weights.host_paths import register_backward_motion_folder
from PIL import Image
from safetensors import safe_open

REFERENCE = Path(os.environ.get("INBETWEEN_REFERENCE", Path(__file__).parent / "reference"))
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


def use_folders(models: Path) -> None:
    """Lets the host find the reference's diffusers folders, and write backward-motion files to `models`."""
    folder_paths.models_dir = str(models)
    folder_paths.folder_names_and_paths["backward_motion"] = ([str(models / "backward_motion")], {".safetensors"})
    register_backward_motion_folder()
    folder_paths.add_model_folder_path("diffusers", str(REFERENCE), is_default=True)
    folder_paths.filename_list_cache.clear()


def backward_motion_folder() -> Path:
    return Path(folder_paths.get_folder_paths("backward_motion")[0])


def folder(end: str) -> str:
    """The reference's diffusers folder whose name ends so, as the loaders list it."""
    return next(path.name for path in sorted(REFERENCE.iterdir()) if path.is_dir() and path.name.endswith(end)) + "/"


def load_models(backward_motion: str = "tiny_backward_motion", strength: float = 1.0):
    """(model with backward motion, CLIP vision, VAE) through the nodes."""
    base = next(path.name for path in sorted(REFERENCE.iterdir())
                if path.is_dir() and not path.name.endswith(("-xt", "reverse-motion"))) + "/"
    InbetweenConvertBackwardMotion.execute(base, folder("reverse-motion"), backward_motion, "fp32", True)
    model, clip_vision, vae = InbetweenLoadSVD.execute(folder("-xt")).args
    model, = InbetweenLoadBackwardMotion.execute(model, f"{backward_motion}.safetensors", strength).args
    return model, clip_vision, vae


def encode_case(case: Case, clip_vision, vae, monkeypatch):
    """Encode Keyframes with the recorded augmentation noise."""
    noise = case.tensors["augmentation_noise"]
    monkeypatch.setattr(encode, "seeded_noise", lambda shape, seed: noise.reshape(shape))
    s = case.settings
    return InbetweenEncodeKeyframes.execute(
        clip_vision, vae, case.picture("first"), case.picture("last"), s["width"], s["height"], s["frames"],
        s.get("fps", 7), s.get("bucket", 127), s.get("aug", 0.02), 0, "crop").args


class RecordedNoise:
    """NOISE for SamplerCustomAdvanced: the recorded first latents."""
    seed = 0

    def __init__(self, noise: torch.Tensor):
        self.noise = noise

    def generate_noise(self, latent: dict) -> torch.Tensor:
        return self.noise


@dataclass
class Result:
    """`latents`: `[frames, 4, h, w]` as the reference has them; `first_v`: the network's first outputs by part."""
    latents: torch.Tensor
    samples: dict
    first_v: dict[tuple[str, str], torch.Tensor]


def sample_case(case: Case, model, positive, negative, latent, order: str = "paired", strategy: str = "dual-direction",
                temporal_attention: str = "rotated") -> Result:
    """The recorded run through the guider, the re-injection sampler and the host's SamplerCustomAdvanced."""
    s, first_v = case.settings, {}
    model = model.clone()
    model.set_model_unet_function_wrapper(_recorder(first_v))
    guider, = InbetweenDualDirectionGuider.execute(
        model, positive, negative, s.get("min_cfg", 1.0), s.get("max_cfg", 3.0),
        "weighted" if s["weighted_average"] else "average", strategy, temporal_attention, order).args
    sampler, = KSamplerSelect.execute("euler").args
    sampler, = InbetweenReinjectionSampler.execute(sampler, s["inject_steps"], s["inject_ratio"]).args
    injected = case.tensors.get("injected_noise")
    sampler.extra_options["draw_noise"] = lambda shape, draw: injected[draw].reshape(shape)
    sigmas, = BasicScheduler.execute(model, "karras", s["steps"], 1.0).args
    assert torch.allclose(sigmas, case.tensors["sigmas"], rtol=1e-4, atol=1e-6)
    samples, _ = SamplerCustomAdvanced.execute(RecordedNoise(case.tensors["initial_noise"][0]), guider, sampler, sigmas,
                                               latent).args
    return Result(samples["samples"] * VAE_SCALE, samples, first_v)


def _recorder(first_v: dict):
    def wrapper(apply_model, arguments):
        x, sigma = arguments["input"], arguments["timestep"].reshape(-1, 1, 1, 1)[0]
        denoised = apply_model(x, arguments["timestep"], **arguments["c"])
        options = arguments["c"]["transformer_options"]
        parts = zip(options["cond_or_uncond"], options[UNET_CALL].videos, x.chunk(len(options["cond_or_uncond"])),
                    denoised.chunk(len(options["cond_or_uncond"])))
        for uncond, video, noisy, estimate in parts:
            # denoised = x/(σ²+1) − v·σ/√(σ²+1)
            v = (noisy / (sigma ** 2 + 1) - estimate) * (sigma ** 2 + 1) ** 0.5 / sigma
            first_v.setdefault((("positive", "negative")[uncond], video.direction), v)
        return denoised

    return wrapper
