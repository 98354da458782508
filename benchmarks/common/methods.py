"""What the benchmarks compare, run through the pack's own nodes and the host's, as in a workflow."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import comfy.utils
import folder_paths
import torch
from comfy import model_management
from comfy_extras.nodes_easycache import EasyCacheNode

import nodes as host_nodes

from ...nodes import (
    InbetweenDualDirectionKSampler,
    InbetweenEncodeKeyframes,
    InbetweenLoadBackwardMotion,
    InbetweenLoadSVD,
)
from ...sampler.settings import DEFAULT_PRESET, PRESETS, chosen_settings
from ...weights.folders import BACKWARD_MOTION, register_backward_motion_folder
from .clips import HeldOutClip
from .peers import RIFE, cross_fade

_EASY_CACHE = 0.15, 0.95, False
"""From where to where in the noise range, and silent, as the node has it."""
FPS, MOTION_BUCKET, NOISE_AUGMENTATION = 7, 127, 0.02


@dataclass(frozen=True)
class Method:
    """`inputs` of Dual-Direction Settings that differ from the preset's, which is `paper` unless they say another.

    `weights`: which of the backward-motion files, at which `strength`; None for the strategies without. `both`: whether
    it is given the first keyframe, too, or the last one alone; `easy_cache`: threshold of the host's EasyCache.
    """

    label: str
    inputs: dict = field(default_factory=dict)
    weights: str | None = "rotated"
    strength: float = 1.0
    both: bool = True
    easy_cache: float | None = None


PEERS = {"cross-fade": "cross-fade", "rife": "RIFE", "forward": "forward SVD alone"}
"""What is no setting of the Dual-Direction KSampler."""
CONTROLS = {"truth": "the true frames", "reconstruction": "the true frames through the VAE"}


@dataclass(frozen=True)
class Video:
    """`frames` in 0…1, `[frames, 3, h, w]`, and the work that it took."""

    frames: torch.Tensor
    evaluations: int = 0
    unet_videos: int = 0


class Methods:
    """All methods on one model, as a context: {name: Method}, beside PEERS and CONTROLS.

    `backward_motion`: {name of a method's weights: file}; `settings`: inputs of Dual-Direction Settings that all
    methods share, with four videos a call where they say nothing else; `rife_enlarge`: how many times larger RIFE sees
    the pictures; `bf16`: matrix products in bfloat16.
    """

    def __init__(
        self,
        checkpoint: Path,
        backward_motion: dict[str, Path],
        settings: dict,
        methods: dict[str, Method],
        rife_enlarge: int = 1,
        bf16: bool = False,
    ):
        comfy.utils.set_progress_bar_enabled(False)
        self.settings, self.methods = settings, methods
        self._folder = tempfile.TemporaryDirectory(prefix="benchmark-")
        try:
            self.files = _show_to_host(checkpoint, backward_motion, Path(self._folder.name))
            self.base, self.clip_vision, self.vae = InbetweenLoadSVD.execute(self.files["checkpoint"]).args
        except BaseException:
            self._folder.cleanup()
            raise
        self._count_videos()
        self._models, self._encoded, self._rife = {}, (None, None, None), None
        self._rife_enlarge, self._bf16 = rife_enlarge, bf16

    def __enter__(self) -> "Methods":
        return self

    def __exit__(self, *_) -> None:
        """Removes the files made for the host."""
        self._folder.cleanup()

    def run(self, name: str, clip: HeldOutClip) -> Video:
        """The video that a method makes of the clip's first and last frame. Raises KeyError for an unknown method."""
        first, last, frames = clip.truth[0], clip.truth[-1], len(clip.truth)
        if name == "truth":
            return Video(clip.truth)
        if name == "cross-fade":
            return Video(cross_fade(first, last, frames))
        if name == "rife":
            self._rife = self._rife or RIFE(self._rife_enlarge)
            return Video(self._rife(first, last, frames))
        with self.computing():
            if name == "reconstruction":
                return Video(self._decode(self.vae.encode(images(clip.truth))))
            both = name not in self.methods or self.methods[name].both
            if self._encoded[0] is not clip or self._encoded[1] != both:
                self._encoded = clip, both, self.encode(clip, both)
            return self.sampled(name, self._encoded[2], clip.seed)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Without gradients, and in the number format that was asked for: whatever runs the model runs in it."""
        device = model_management.get_torch_device().type
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=self._bf16):
            yield

    def encode(self, clip: HeldOutClip, both: bool = True, **optional):
        """(positive, negative, latent) of its first and last frame, or of the last alone; `optional`: further inputs of
        Encode Keyframes."""
        first, last = (images(clip.truth[index]) for index in ([0], [-1]))
        height, width = clip.truth.shape[-2:]
        return InbetweenEncodeKeyframes.execute(
            self.clip_vision,
            self.vae,
            width,
            height,
            len(clip.truth),
            FPS,
            MOTION_BUCKET,
            NOISE_AUGMENTATION,
            clip.seed,
            "crop",
            **({"first_keyframe": first} if both else {}),
            last_keyframe=last,
            **optional,
        ).args

    def sampled(self, name: str, encoded, seed: int) -> Video:
        """The video that a method makes of encoded keyframes."""
        self._videos = 0
        sampled = self._forward if name == "forward" else self._dual_direction
        latent, evaluations = sampled(name, encoded, seed)
        return Video(self._decode(latent["samples"]), evaluations, self._videos)

    def _forward(self, _: str, encoded, seed: int) -> tuple[dict, int]:
        """The host's KSampler on our conditioning: plain SVD from the first keyframe."""
        positive, negative, latent = encoded
        inputs = {**PRESETS[self.settings.get("preset", DEFAULT_PRESET)], **self.settings}
        steps, guidance = inputs["steps"], (inputs["guidance_min"] + inputs["guidance_max"]) / 2
        (result,) = host_nodes.KSampler().sample(
            self.base, seed, steps, guidance, "euler", "karras", positive, negative, latent
        )
        return result, steps

    def _dual_direction(self, name: str, encoded, seed: int) -> tuple[dict, int]:
        """The latents, and how many UNet evaluations they took."""
        method = self.methods[name]
        settings = chosen_settings(**{"videos_per_call": "4", **self.settings, **method.inputs})
        model = self.model(method.weights, method.strength)
        if method.easy_cache is not None:
            (model,) = EasyCacheNode.execute(model, method.easy_cache, *_EASY_CACHE).args
        (result,) = InbetweenDualDirectionKSampler.execute(model, *encoded, seed, DEFAULT_PRESET, 1.0, settings).args
        return result, settings.sampler.sampler_steps(settings.guider)

    def model(self, weights: str | None = "rotated", strength: float = 1.0):
        """The MODEL with those backward-motion weights."""
        if weights is None:
            return self.base
        key = weights, strength
        if key not in self._models:
            (self._models[key],) = InbetweenLoadBackwardMotion.execute(self.base, self.files[weights], strength).args
        return self._models[key]

    def _decode(self, samples: torch.Tensor) -> torch.Tensor:
        (pictures,) = host_nodes.VAEDecode().decode(self.vae, {"samples": samples})
        return pictures.movedim(-1, 1).float().clamp(0, 1).clone()

    def _count_videos(self) -> None:
        """Counts the videos that go through the UNet, whoever sends them."""
        self._videos = 0

        def counting(apply_model, arguments):
            self._videos += len(arguments["cond_or_uncond"])
            return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

        self.base = self.base.clone()
        self.base.set_model_unet_function_wrapper(counting)


@contextmanager
def replaced(module: ModuleType, name: str, value: object) -> Iterator[None]:
    """Another function or class in a module of the pack meanwhile: for candidates that are not in the product."""
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)


def images(frames: torch.Tensor) -> torch.Tensor:
    """ComfyUI's IMAGE, `[frames, h, w, 3]`."""
    return frames.movedim(1, -1).contiguous()


def _show_to_host(checkpoint: Path, backward_motion: dict[str, Path], folder: Path) -> dict[str, str]:
    """{"checkpoint" or name of the weights: the name by which the loaders know the file}."""
    is_folder = checkpoint.is_dir()
    folder_paths.add_model_folder_path(
        "diffusers" if is_folder else "checkpoints", str(checkpoint.resolve().parent), is_default=True
    )
    register_backward_motion_folder()
    folder_paths.add_model_folder_path(BACKWARD_MOTION, str(folder), is_default=True)
    names = {"checkpoint": checkpoint.name + ("/" if is_folder else "")}
    for weights, path in backward_motion.items():
        # Results of several trainings have the same file name.
        names[weights] = f"{weights}.safetensors"
        shutil.copyfile(path, folder / names[weights])
    folder_paths.filename_list_cache.clear()
    return names
