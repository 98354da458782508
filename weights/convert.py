"""Makes a backward-motion file from a fine-tuned SVD UNet and the base that it was trained from.

The authors release a whole fine-tuned UNet; only 16 × 2 of its matrices differ from the base. Tensors are read one by
one, so that neither 6 GB file is ever held in memory.
"""

import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from ..common.errors import WeightsError, plain_name
from .backward_motion import is_backward_motion_key, write_backward_motion
from .files import SafetensorsFile
from .identify import UNET_PREFIX
from .keys import unet as unet_keys
from .svd import weight_files

logger = logging.getLogger(__name__)

# An untouched matrix that was rounded to bf16 differs by 0.16 % of its norm from one that was rounded otherwise.
_ROUNDING = 3e-3
# Metadata of a file that was made from another base than the one that was fine-tuned.
OTHER_BASE = "other_base"
PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class InputNames:
    """What the inputs of a conversion are called where the user gives them, and how the user allows what is refused."""

    base: str
    fine_tuned: str
    output: str
    overwrite: str
    allow_other_base: str


ON_THE_NODE = InputNames("base", "fine_tuned", "file_name", "turn overwrite on", "turn allow_other_base on")
AT_A_TERMINAL = InputNames("--base", "--fine-tuned", "--output", "add --overwrite", "add --allow-other-base")


class UNetTensors:
    """One UNet on disk, in ComfyUI's names whatever the file's: a diffusers folder, its `unet/`, or a file.

    A context manager that closes the files. Its errors begin with `label`, the input that named it.
    """

    def __init__(self, path: Path, label: str):
        """Raises WeightsError when `path` holds no SVD UNet."""
        self.path, self.label, self._open = Path(path), label, ExitStack()
        try:
            self._stored = self._named([self._open.enter_context(SafetensorsFile(file)) for file in self._paths()])
            if not self.backward_motion_keys():
                raise WeightsError(
                    f"Expected a Stable Video Diffusion UNet in {model_name(self.path)}, found no temporal attention. "
                    "Choose the model's folder, its unet folder, or its checkpoint file."
                )
        except WeightsError as error:
            self._open.close()
            raise WeightsError(f"{label}: {error}") from error

    def __enter__(self) -> "UNetTensors":
        return self

    def __exit__(self, *_) -> None:
        self._open.close()

    def backward_motion_keys(self) -> list[str]:
        """Names of the matrices that fine-tuning changes."""
        return sorted(key for key in self._stored if is_backward_motion_key(key))

    def names(self) -> set[str]:
        """All names of the UNet's tensors."""
        return set(self._stored)

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor in float32, read from disk now. Raises WeightsError unless its numbers are finite."""
        file, key = self._stored[name]
        tensor = file.get_tensor(key)
        if not tensor.is_floating_point() or not (tensor := tensor.float()).isfinite().all():
            raise WeightsError(
                f"{self.label}: Expected finite floating-point numbers in {file.name}, found others in "
                f"{plain_name(key)}. Get the model again, in fp16 or fp32."
            )
        return tensor

    def _paths(self) -> list[Path]:
        if not os.path.exists(self.path):
            raise WeightsError(f"Expected a folder or a safetensors file at {plain_name(self.path)}, found none.")
        if not self.path.is_dir():
            return [self.path]
        unet = self.path / "unet"
        return weight_files(unet if unet.is_dir() else self.path, "diffusion_pytorch_model")

    @staticmethod
    def _named(files: list[SafetensorsFile]) -> dict[str, tuple[SafetensorsFile, str]]:
        stored = {key: file for file in files for key in file.keys()}
        if any(key.startswith(UNET_PREFIX) for key in stored):
            names = {key.removeprefix(UNET_PREFIX): key for key in stored if key.startswith(UNET_PREFIX)}
        elif unet_keys.is_diffusers(stored):
            names = {name: key for key, name in unet_keys.diffusers_to_comfy(stored).items()}
        else:
            names = {key.removeprefix("diffusion_model."): key for key in stored}
        return {name: (stored[key], key) for name, key in names.items()}


def convert(
    base: Path,
    fine_tuned: Path,
    output: Path,
    metadata: dict[str, str],
    overwrite: bool = False,
    dtype: torch.dtype = torch.float16,
    progress: Callable[[int, int], None] = lambda done, total: None,
    allow_other_base: bool = True,
    say: Callable[[str], None] = logger.warning,
    names: InputNames = ON_THE_NODE,
) -> Path:
    """Writes `fine_tuned − base` of the 16 × 2 matrices as a backward-motion file and returns its path.

    `progress(done, total)` is called after every matrix. With `allow_other_base` the base may be another model than
    the one that was fine-tuned: `say(sentence)` is called, and the file remembers it. Raises WeightsError, beginning
    with the input's name in `names`, when either model is no SVD UNet, when their shapes differ, when nothing differs,
    or when the file cannot be written.
    """
    refuse_existing(output, overwrite, names)
    with UNetTensors(base, names.base) as base_unet, UNetTensors(fine_tuned, names.fine_tuned) as tuned_unet:
        keys = base_unet.backward_motion_keys()
        if keys != tuned_unet.backward_motion_keys():
            raise WeightsError(
                f"{names.fine_tuned}: Expected the same temporal attentions in both models, found {len(keys)} "
                f"matrices in the base and {len(tuned_unet.backward_motion_keys())} in the fine-tuned "
                "model."
            )
        origin = {"base": model_name(base), "source": model_name(fine_tuned)}
        if foreign := _foreign_tensor(base_unet, tuned_unet):
            reason = (
                f"{origin['source']} was probably not trained from {origin['base']}: {foreign} differs, although "
                "fine-tuning leaves it alone. The authors trained from the 14-frame SVD, not from SVD-XT."
            )
            if not allow_other_base:
                raise WeightsError(
                    f"{names.base}: Expected the model that was fine-tuned. {reason} Choose that model's UNet, "
                    f"or {names.allow_other_base} to make the file all the same."
                )
            say(f"{names.base}: {reason}")
            origin[OTHER_BASE] = "yes"
        differences = {}
        for done, key in enumerate(keys, start=1):
            before, after = base_unet.tensor(key), tuned_unet.tensor(key)
            if before.shape != after.shape:
                raise WeightsError(
                    f"{names.fine_tuned}: Expected both models to have one width, found {tuple(before.shape)} in the "
                    f"base and {tuple(after.shape)} in the fine-tuned model for {plain_name(key)}."
                )
            differences[key] = after - before
            progress(done, len(keys))
    if not any(difference.any() for difference in differences.values()):
        raise WeightsError(
            f"{names.fine_tuned}: Expected a fine-tuned model that differs from its base, found no difference. "
            "Choose the untouched model as base and the fine-tuned one beside it."
        )
    try:
        write_backward_motion(output, differences, {**origin, **metadata}, overwrite, dtype)
    except WeightsError as error:
        raise WeightsError(f"{names.output}: {error}") from error
    return Path(output)


def refuse_existing(output: Path, overwrite: bool, names: InputNames) -> None:
    """Raises WeightsError when the file exists and `overwrite` is off."""
    if os.path.exists(output) and not overwrite:
        raise WeightsError(
            f"{names.output}: {plain_name(Path(output).name)} exists already and is kept. Choose another name, "
            f"or {names.overwrite}."
        )


def model_name(path: Path) -> str:
    """A model's name as messages and metadata show it: of a folder called `unet` that of its parent."""
    path = Path(path)
    return plain_name(path.parent.name if path.name == "unet" else path.name)


def _foreign_tensor(base: UNetTensors, tuned: UNetTensors) -> str | None:
    """The name of a tensor that differs although fine-tuning leaves it alone; None if the base is right."""
    # Subtracting SVD-XT from weights that were trained from SVD runs without a complaint and gives a wrong file.
    shared = base.names() & tuned.names()
    untouched = [name for name in ("input_blocks.0.0.weight", "out.2.weight") if name in shared]
    untouched += sorted(
        name for name in shared if name.endswith((".time_stack.0.attn1.to_q.weight", ".time_stack.0.attn1.to_k.weight"))
    )
    for name in untouched:
        before, after = base.tensor(name), tuned.tensor(name)
        if before.shape == after.shape and (after - before).norm() > _ROUNDING * before.norm():
            return plain_name(name)
    return None
