"""Makes a backward-motion file from a fine-tuned SVD UNet and the base that it was trained from.

The authors release a whole fine-tuned UNet; only 16 × 2 of its matrices differ from the base. Tensors are read one by
one, so that neither 6 GB file is ever held in memory.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from . import unet_keys
from .backward_motion import is_backward_motion_key, write_backward_motion
from .diffusers_folder import weight_files
from .errors import WeightsError
from .safetensors_files import open_safetensors
from .single_file import UNET_PREFIX

logger = logging.getLogger(__name__)

# An untouched matrix that was rounded to fp16 or bf16 once differs by less than this share of its norm.
_ROUNDING = 1e-2


class UNetTensors:
    """One UNet on disk, in ComfyUI's names whatever the file's: a diffusers folder, its `unet/`, or a file."""

    def __init__(self, path: Path):
        """Raises WeightsError when `path` holds no SVD UNet."""
        self.path = Path(path)
        self._files = [open_safetensors(file) for file in self._paths()]
        stored = {key: file for file in self._files for key in file.keys()}
        if any(key.startswith(UNET_PREFIX) for key in stored):
            names = {key.removeprefix(UNET_PREFIX): key for key in stored if key.startswith(UNET_PREFIX)}
        elif unet_keys.is_diffusers(stored):
            names = {name: key for key, name in unet_keys.diffusers_to_comfy(stored).items()}
        else:
            names = {key.removeprefix("diffusion_model."): key for key in stored}
        self._stored = {name: (stored[key], key) for name, key in names.items()}
        if not self.backward_motion_keys():
            raise WeightsError(f"Expected a Stable Video Diffusion UNet in {self.path}, found no temporal attention. "
                               "Choose the model's folder, its unet folder, or its checkpoint file.")

    def backward_motion_keys(self) -> list[str]:
        """Names of the matrices that fine-tuning changes."""
        return sorted(key for key in self._stored if is_backward_motion_key(key))

    def names(self) -> set[str]:
        """All names of the UNet's tensors."""
        return set(self._stored)

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor in float32, read from disk now."""
        file, key = self._stored[name]
        return file.get_tensor(key).float()

    def _paths(self) -> list[Path]:
        if not self.path.exists():
            raise WeightsError(f"Expected a folder or a safetensors file at {self.path}, found none.")
        if self.path.is_file():
            return [self.path]
        unet = self.path / "unet"
        return weight_files(unet if unet.is_dir() else self.path, "diffusion_pytorch_model")


def convert(base: Path, fine_tuned: Path, output: Path, metadata: dict[str, str], overwrite: bool = False,
            dtype: torch.dtype = torch.float16,
            progress: Callable[[int, int], None] = lambda done, total: None) -> Path:
    """Writes `fine_tuned − base` of the 16 × 2 matrices as a backward-motion file and returns its path.

    `progress(done, total)` is called after every matrix. Raises WeightsError when either model is no SVD UNet, when
    their shapes differ, when nothing differs, or when the file cannot be written.
    """
    if Path(output).exists() and not overwrite:
        raise WeightsError(f"{output} exists already and is kept. Choose another name, or allow overwriting.")
    base_unet, tuned_unet = UNetTensors(base), UNetTensors(fine_tuned)
    keys = base_unet.backward_motion_keys()
    if keys != tuned_unet.backward_motion_keys():
        raise WeightsError(f"Expected the same temporal attentions in both models, found {len(keys)} matrices in the "
                           f"base and {len(tuned_unet.backward_motion_keys())} in the fine-tuned model.")
    _warn_of_another_base(base_unet, tuned_unet)
    differences = {}
    for done, key in enumerate(keys, start=1):
        differences[key] = _difference(base_unet.tensor(key), tuned_unet.tensor(key), key).to(dtype)
        progress(done, len(keys))
    if not any(difference.any() for difference in differences.values()):
        raise WeightsError("Expected a fine-tuned model that differs from its base, found no difference. "
                           "Choose the untouched model as base and the fine-tuned one beside it.")
    origin = {"base": _model_name(base), "source": _model_name(fine_tuned)}
    write_backward_motion(output, differences, {**origin, **metadata}, overwrite, dtype)
    return Path(output)


def _model_name(path: Path) -> str:
    path = Path(path)
    return path.parent.name if path.name == "unet" else path.name


def _difference(base: torch.Tensor, tuned: torch.Tensor, key: str) -> torch.Tensor:
    if base.shape != tuned.shape:
        raise WeightsError(f"Expected both models to have one width, found {tuple(base.shape)} in the base and "
                           f"{tuple(tuned.shape)} in the fine-tuned model for {key}.")
    return tuned - base


def _warn_of_another_base(base: UNetTensors, tuned: UNetTensors) -> None:
    # Subtracting SVD-XT from weights that were trained from SVD runs without a complaint and gives a wrong file.
    for name in ("input_blocks.0.0.weight", "input_blocks.1.1.time_stack.0.attn1.to_q.weight", "out.2.weight"):
        if name not in base.names() & tuned.names():
            continue
        before, after = base.tensor(name), tuned.tensor(name)
        if before.shape != after.shape or (after - before).norm() > _ROUNDING * before.norm():
            logger.warning("%s differs between base and fine-tuned model, although fine-tuning leaves it alone: %s was "
                           "probably not trained from %s. The authors trained from the 14-frame SVD, not from SVD-XT.",
                           name, tuned.path, base.path)
            return
