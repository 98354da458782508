"""The settings of a fine-tuning run: command-line options, configuration files, and their checks.

The options are made from the dataclass here: `transformers.HfArgumentParser` cannot put options over a configuration
file, has no `--no-gradient-checkpointing`, and names neither the file nor the entry that is wrong.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from ..common.latents import LATENT_PIXELS

# By accelerate's names; those of files are in weights/convert.py.
PRECISIONS = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class SettingsError(ValueError):
    """An option has a value that cannot be used."""


def option(default: object, text: str, choices: tuple[str, ...] | None = None) -> Any:
    """A dataclass field that is also a command-line option."""
    return field(default=default, metadata={"help": text, "choices": choices})


@dataclass(frozen=True)
class Settings:
    """All settings of a run.

    Defaults are the authors' (arXiv 2408.15239 and their released training script), but for three: frames are cropped
    instead of stretched, the frozen network stays in float32, and activations are kept. `configs/svd_authors.json` has
    the authors' own.
    """

    base: str = option("", "diffusers folder of the SVD model to start from (unet/, vae/, image_encoder/)")
    data: str = option("", "folder of videos, or of folders of frames")
    out: str = option("", "folder for the result, the checkpoints, the log and the cache")
    frames: int = option(14, "frames of a clip")
    stride: int = option(2, "take every n-th frame of a video")
    width: int = option(1024, "width of a clip in pixels, a multiple of 8")
    height: int = option(576, "height of a clip in pixels, a multiple of 8")
    fit: str = option("crop", "how frames of another aspect become width x height", ("crop", "stretch"))
    clips_per_video: int = option(0, "at most so many clips from one video; 0: as many as fit one after another")
    maps: str = option(
        "rotated",
        "attention maps of the trained network: the forward network's, rotated by 180 degrees (the paper), or its own",
        ("rotated", "own"),
    )
    steps: int = option(10000, "optimizer steps in all, those of resumed checkpoints included")
    batch_size: int = option(1, "clips of one forward pass on one device")
    accumulation: int = option(1, "forward passes of one optimizer step")
    lr: float = option(1e-4, "learning rate")
    lr_schedule: str = option("constant", "learning rate over the steps", ("constant", "cosine"))
    warmup_steps: int = option(0, "steps over which the learning rate rises from 0")
    weight_decay: float = option(1e-2, "AdamW's weight decay, towards zero weights")
    max_grad_norm: float = option(1.0, "clip gradients to this norm; 0 switches clipping off")
    sigma_mean: float = option(0.7, "mean of ln(sigma)")
    sigma_std: float = option(1.6, "standard deviation of ln(sigma)")
    noise_augmentation: float = option(0.02, "noise added to both keyframes, in images from -1 to 1")
    fps: int = option(7, "frames per second told to the network")
    motion_bucket: int = option(127, "motion bucket told to the network")
    mixed_precision: str = option(
        "no", "precision of the frozen network; the trained matrices stay float32", tuple(PRECISIONS)
    )
    gradient_checkpointing: bool = option(
        False, "recompute activations instead of keeping them: about a third more work, far less memory"
    )
    seed: int = option(0, "every random number of the run follows from it")
    save_every: int = option(500, "steps between checkpoints")
    keep: int = option(2, "checkpoints to keep; older ones are removed")
    held_out: str = option("", "folder of clips that are never trained on, to report the loss on")
    held_out_every: int = option(500, "steps between losses on the held-out clips")
    cache: str = option("", "folder for encoded clips; default: the folder `cache` in --out")
    source: str = option("", "where the data come from, written into the result")
    license: str = option("", "licence of the result, written into it")
    cpu: bool = option(False, "run on the CPU even if there is a GPU")

    @property
    def cache_folder(self) -> Path:
        """Where encoded clips are kept."""
        return Path(self.cache) if self.cache else Path(self.out) / "cache"

    @property
    def result(self) -> Path:
        """The backward-motion file that the run ends with."""
        return Path(self.out) / "backward_motion.safetensors"

    def check(self) -> None:
        """Raise SettingsError naming the first option that cannot be used."""
        for name in ("base", "data", "out"):
            if not getattr(self, name):
                raise SettingsError(f"--{name}: expected {OPTIONS[name].metadata['help']}; nothing was given.")
        at_least = {
            "frames": 2,
            "stride": 1,
            "width": 8,
            "height": 8,
            "steps": 1,
            "batch_size": 1,
            "accumulation": 1,
            "save_every": 1,
            "keep": 1,
            "held_out_every": 1,
            "clips_per_video": 0,
            "warmup_steps": 0,
            "weight_decay": 0,
            "max_grad_norm": 0,
            "noise_augmentation": 0,
            "sigma_std": 0,
            "seed": 0,
        }
        for name, least in at_least.items():
            if not getattr(self, name) >= least:
                raise SettingsError(f"--{dashed(name)}: expected at least {least}, found {getattr(self, name)}.")
        for name in ("width", "height"):
            if getattr(self, name) % LATENT_PIXELS:
                raise SettingsError(f"--{name}: expected a multiple of {LATENT_PIXELS}, found {getattr(self, name)}.")
        if not self.lr > 0:
            raise SettingsError(f"--lr: expected a number above 0, found {self.lr}.")


OPTIONS: dict[str, Field] = {each.name: each for each in fields(Settings)}


def dashed(name: str) -> str:
    """The option of a setting: batch_size -> batch-size."""
    return name.replace("_", "-")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add `--config` and an option for every setting; those not given stay absent from the parsed arguments."""
    parser.add_argument("--config", metavar="FILE", help="JSON file of settings; options given beside it win")
    for name, each in OPTIONS.items():
        default = each.default if each.default is not MISSING else None
        text = each.metadata["help"] + (f" (default: {default})" if default not in ("", False) else "")
        common = {"dest": name, "default": argparse.SUPPRESS, "help": text}
        if isinstance(default, bool):
            parser.add_argument(f"--{dashed(name)}", action=argparse.BooleanOptionalAction, **common)
        else:
            parser.add_argument(f"--{dashed(name)}", type=type(default), choices=each.metadata["choices"], **common)


def settings_from(arguments: argparse.Namespace) -> Settings:
    """Settings of parsed arguments: defaults, then the configuration file, then the options. Raises SettingsError."""
    values = read_configuration(Path(arguments.config)) if arguments.config else {}
    values |= {name: value for name, value in vars(arguments).items() if name in OPTIONS}
    return Settings(**values)


def read_configuration(path: Path) -> dict[str, Any]:
    """Settings in a JSON file. Raises SettingsError naming the file and the entry that is wrong."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"--config: {path} cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise SettingsError(f"--config: {path}: expected an object of settings, found {type(values).__name__}.")
    for name, value in values.items():
        if name not in OPTIONS:
            raise SettingsError(
                f"--config: {path}: {name!r} is no setting; --help lists them (batch_size for --batch-size)."
            )
        expected = type(OPTIONS[name].default)
        accepted = (int, float) if expected is float else (expected,)
        if not isinstance(value, accepted) or (expected is not bool and isinstance(value, bool)):
            raise SettingsError(f"--config: {path}: {name}: expected {expected.__name__}, found {value!r}.")
        choices = OPTIONS[name].metadata["choices"]
        if choices and value not in choices:
            raise SettingsError(f"--config: {path}: {name}: expected one of {', '.join(choices)}, found {value!r}.")
    return values
