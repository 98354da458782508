"""Every method that the benchmark compares, run through the pack's own nodes and the host's, as in a workflow."""

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import comfy.utils
import folder_paths
import torch
from generative_inbetweening.nodes import (
    InbetweenDualDirectionKSampler,
    InbetweenEncodeKeyframes,
    InbetweenLoadBackwardMotion,
    InbetweenLoadSVD,
)
from generative_inbetweening.sampler.settings import (
    CUSTOM,
    DEFAULTS,
    GuiderSettings,
    SamplerSettings,
    chosen_settings,
)
from generative_inbetweening.weights.folders import BACKWARD_MOTION, register_backward_motion_folder

import nodes as host_nodes

from ..common.peers import RIFE, cross_fade
from .clips import HeldOutClip

FPS, MOTION_BUCKET, NOISE_AUGMENTATION = 7, 127, 0.02


@dataclass(frozen=True)
class SamplingSettings:
    """What all sampling methods share."""

    steps: int = 25
    guidance_min: float = 1.0
    guidance_max: float = 3.0
    reinjections: int = 2
    reinjection_share: float = 0.5


@dataclass(frozen=True)
class DualDirection:
    """Choices on the Dual-Direction KSampler. `weights`: which of the backward-motion files; None: time reversal."""

    label: str
    fusion: str = "weighted"
    temporal_attention: str = "rotated"
    weights: str | None = "rotated"
    strength: float = 1.0
    reinjected: bool = True


@dataclass(frozen=True)
class NodeInputs:
    """A method given by inputs of the Dual-Direction KSampler that differ from its defaults; `weights` as above."""

    label: str
    inputs: dict
    weights: str | None = "rotated"
    strength: float = 1.0


OURS = DualDirection("ours, weighted fusion")
SAMPLED = {
    "ours": OURS,
    "ours-average": replace(OURS, label="ours, average fusion", fusion="average"),
    "ours-no-reinjection": replace(OURS, label="ours, weighted, no re-injection", reinjected=False),
    "ours-average-no-reinjection": replace(
        OURS, label="ours, average, no re-injection", fusion="average", reinjected=False
    ),
    "ours-no-rotation": replace(OURS, label="ours without rotation", temporal_attention="own"),
    "ours-own-maps": replace(OURS, label="ours fine-tuned with own maps", temporal_attention="own", weights="own"),
    "ours-own-maps-average": replace(
        OURS, label="ours fine-tuned with own maps, average", temporal_attention="own", weights="own", fusion="average"
    ),
    "ours-no-fine-tuning": replace(OURS, label="ours without fine-tuning", strength=0.0),
    "ours-no-fine-tuning-average": replace(
        OURS, label="ours without fine-tuning, average", strength=0.0, fusion="average"
    ),
    "time-reversal": DualDirection("Time Reversal Fusion, weighted", weights=None),
    "time-reversal-average": DualDirection("Time Reversal Fusion, average", weights=None, fusion="average"),
}
LABELS = {
    "cross-fade": "cross-fade",
    "rife": "RIFE",
    "forward": "forward SVD alone",
    **{name: choice.label for name, choice in SAMPLED.items()},
}
CONTROLS = {"truth": "the true frames", "reconstruction": "the true frames through the VAE"}


@dataclass(frozen=True)
class Video:
    """`frames` in 0…1, `[frames, 3, h, w]`, and the work that it took."""

    frames: torch.Tensor
    evaluations: int = 0
    unet_videos: int = 0


class Methods:
    """All methods on one model.

    `backward_motion`: {name of a DualDirection's weights: file}; `choices`: {method: its DualDirection}.
    """

    def __init__(
        self,
        checkpoint: Path,
        backward_motion: dict[str, Path],
        settings: SamplingSettings,
        rife_enlarge: int = 1,
        choices: dict[str, DualDirection | NodeInputs] | None = None,
    ):
        comfy.utils.set_progress_bar_enabled(False)
        self.settings = settings
        self.choices = choices or SAMPLED
        self._folder = tempfile.TemporaryDirectory(prefix="quality-")
        self.files = _show_to_host(checkpoint, backward_motion, Path(self._folder.name))
        self.base, self.clip_vision, self.vae = InbetweenLoadSVD.execute(self.files["checkpoint"]).args
        self._count_videos()
        self._models, self._encoded, self._rife = {}, (None, None), None
        self._rife_enlarge = rife_enlarge

    def close(self) -> None:
        """Removes the files made for the host."""
        self._folder.cleanup()

    def run(self, method: str, clip: HeldOutClip) -> Video:
        """The video that a method makes of the clip's first and last frame. Raises KeyError for an unknown method."""
        first, last, frames = clip.truth[0], clip.truth[-1], len(clip.truth)
        if method == "truth":
            return Video(clip.truth)
        if method == "cross-fade":
            return Video(cross_fade(first, last, frames))
        if method == "rife":
            self._rife = self._rife or RIFE(self._rife_enlarge)
            return Video(self._rife(first, last, frames))
        with torch.inference_mode():
            if method == "reconstruction":
                return Video(self._decode(self.vae.encode(_images(clip.truth))))
            return self._sampled(None if method == "forward" else self.choices[method], clip)

    def _sampled(self, choice: DualDirection | NodeInputs | None, clip: HeldOutClip) -> Video:
        encoded = self._encode(clip)
        self._videos = 0
        if choice is None:
            latent, evaluations = self._forward(encoded, clip.seed), self.settings.steps
        else:
            inputs = choice.inputs if isinstance(choice, NodeInputs) else self._inputs_of(choice)
            latent, evaluations = self._dual_direction(self._model(choice), encoded, clip.seed, inputs)
        return Video(self._decode(latent["samples"]), evaluations, self._videos)

    def _encode(self, clip: HeldOutClip):
        if self._encoded[0] is not clip:
            first, last = (_images(clip.truth[index]) for index in ([0], [-1]))
            height, width = clip.truth.shape[-2:]
            self._encoded = (
                clip,
                InbetweenEncodeKeyframes.execute(
                    self.clip_vision,
                    self.vae,
                    first,
                    last,
                    width,
                    height,
                    len(clip.truth),
                    FPS,
                    MOTION_BUCKET,
                    NOISE_AUGMENTATION,
                    clip.seed,
                    "crop",
                ).args,
            )
        return self._encoded[1]

    def _forward(self, encoded, seed: int) -> dict:
        """The host's KSampler on our conditioning: plain SVD from the first keyframe."""
        positive, negative, latent = encoded
        guidance = (self.settings.guidance_min + self.settings.guidance_max) / 2
        return host_nodes.KSampler().sample(
            self.base, seed, self.settings.steps, guidance, "euler", "karras", positive, negative, latent
        )[0]

    def _inputs_of(self, choice: DualDirection) -> dict:
        s = self.settings
        return {
            "steps": s.steps,
            "guidance_min": s.guidance_min,
            "guidance_max": s.guidance_max,
            "fusion": choice.fusion,
            "reinjections": s.reinjections if choice.reinjected else 0,
            "reinjection_share": s.reinjection_share,
            "temporal_attention": choice.temporal_attention,
            "strategy": "time-reversal" if choice.weights is None else "dual-direction",
        }

    @staticmethod
    def _dual_direction(model, encoded, seed: int, inputs: dict) -> tuple[dict, int]:
        """The latents, and how many UNet evaluations they took."""
        positive, negative, latent = encoded
        (result,) = InbetweenDualDirectionKSampler.execute(
            model, positive, negative, latent, seed, denoise=1.0, videos_per_call="4", **{**DEFAULTS, **inputs}
        ).args
        settings, directions = settings_from(inputs)
        return result, settings.sampler_steps(directions)

    def _model(self, choice: DualDirection | NodeInputs):
        if choice.weights is None:
            return self.base
        key = choice.weights, choice.strength
        if key not in self._models:
            (self._models[key],) = InbetweenLoadBackwardMotion.execute(
                self.base, self.files[choice.weights], choice.strength
            ).args
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


def settings_from(inputs: dict) -> tuple[SamplerSettings, GuiderSettings]:
    """What the Dual-Direction KSampler makes of the inputs that differ from its defaults."""
    chosen = {**DEFAULTS, **inputs}
    return chosen_settings(chosen.pop("preset", CUSTOM), "2", **chosen)


def _images(frames: torch.Tensor) -> torch.Tensor:
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
