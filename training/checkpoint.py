"""Checkpoints: one safetensors file each, with trained weights, optimizer state and the run's settings.

Written under a temporary name and renamed when complete, so a full disk or a crash leaves the previous one whole.
There are no random-number states to keep: see batches.py.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from ..weights.files import read_metadata, read_tensors, save_tensors
from .model import BackwardMotionModel
from .svd import temporal_self_attentions, value_and_output

logger = logging.getLogger(__name__)

FORMAT = "backward-motion-checkpoint"
VERSION = 1
_NAME = re.compile(r"checkpoint-(\d{8})\.safetensors")


class CheckpointError(ValueError):
    """A checkpoint that cannot be resumed from."""


@dataclass(frozen=True)
class RunState:
    """What a checkpoint says besides its tensors."""

    step: int
    base_fingerprint: str
    maps: str
    mixed_precision: str
    settings: dict[str, object]
    loss_scale: dict[str, float] | None = None


def base_fingerprint(unet: torch.nn.Module) -> str:
    """SHA-256 over the matrices of a base UNet that are to be trained: tells one base model from another."""
    digest = hashlib.sha256()
    for layer in temporal_self_attentions(unet).values():
        for weight in value_and_output(layer):
            digest.update(repr(tuple(weight.shape)).encode())
            digest.update(weight.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(path for path in Path(folder).glob("checkpoint-*.safetensors") if _NAME.fullmatch(path.name))


def save_checkpoint(
    folder: Path, model: BackwardMotionModel, optimizer: torch.optim.Optimizer, state: RunState, keep: int
) -> Path:
    """Write `checkpoint-<step>.safetensors`, then remove all but the newest `keep`.

    Raises WeightsError when it cannot be written; earlier checkpoints are then untouched.
    """
    tensors = {f"trained.{name}": value.detach().cpu() for name, value in model.named_trainable().items()}
    for name, parameter in model.named_trainable().items():
        tensors |= {
            f"optimizer.{name}.{key}": value.detach().cpu() for key, value in optimizer.state.get(parameter, {}).items()
        }
    path = Path(folder) / f"checkpoint-{state.step:08d}.safetensors"
    metadata = {"format": FORMAT, "version": str(VERSION), "state": json.dumps(vars(state))}
    save_tensors(path, tensors, metadata, overwrite=True)
    for old in checkpoints(folder)[:-keep]:
        # One that cannot be removed, as while another program reads it on Windows, only takes space.
        with suppress(OSError):
            old.unlink()
    return path


def read_state(path: Path) -> RunState:
    """A checkpoint's state. Raises CheckpointError when the file is none of ours."""
    metadata = read_metadata(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"--resume: {path} is no checkpoint of this command (format {metadata.get('format')!r}). "
            "Give a checkpoint-*.safetensors, or --resume alone for the newest in --out."
        )
    if metadata.get("version") != str(VERSION):
        raise CheckpointError(f"--resume: {path} is of version {metadata.get('version')}, expected {VERSION}.")
    return RunState(**json.loads(metadata["state"]))


def check_continues(path: Path, state: RunState, fingerprint: str, maps: str, mixed_precision: str) -> None:
    """Raise CheckpointError unless the checkpoint was trained from this base in this way."""
    if state.base_fingerprint != fingerprint:
        raise CheckpointError(
            f"--resume: {path} was trained from another base model than the one --base names. Give "
            f"the base of that run ({state.settings.get('base')}), or start anew with another --out."
        )
    for option, found, wanted in (
        ("maps", state.maps, maps),
        ("mixed-precision", state.mixed_precision, mixed_precision),
    ):
        if found != wanted:
            raise CheckpointError(
                f"--resume: {path} was trained with --{option} {found}, not {wanted}. Give "
                f"--{option} {found}, or start anew with another --out."
            )


def load_checkpoint(path: Path, model: BackwardMotionModel, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's weights and optimizer state in place. Raises CheckpointError when tensors do not fit."""
    tensors = read_tensors(path)
    named = model.named_trainable()
    for name, parameter in named.items():
        saved = tensors.get(f"trained.{name}")
        if saved is None or saved.shape != parameter.shape:
            found = "no such tensor" if saved is None else f"{tuple(saved.shape)}"
            raise CheckpointError(
                f"--resume: {path}: {name}: expected {tuple(parameter.shape)}, found {found}. It "
                "belongs to another model."
            )
    state = {}
    for number, (name, parameter) in enumerate(named.items()):
        with torch.no_grad():
            parameter.copy_(tensors[f"trained.{name}"])
        prefix = f"optimizer.{name}."
        state[number] = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
