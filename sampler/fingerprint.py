"""A fingerprint of models, pictures and settings, by which a finished clip is known to belong to the same request.

Of a model it sees sampled weights, LoRAs and other patches. It cannot see what another node's patch keeps to itself.
"""

import dataclasses
import hashlib
from collections.abc import Mapping

import torch

_SAMPLED_TENSORS = 32
_SAMPLED_NUMBERS = 64
_DEEPEST = 8


class Fingerprint:
    """SHA-256 over values of many kinds. `short` looks at a sample of each tensor's numbers only."""

    def __init__(self, short: bool = False):
        self._digest = hashlib.sha256()
        self._short = short

    def add(self, value: object, depth: int = 0) -> "Fingerprint":
        """Adds a number, string, tensor, module, dataclass, function, or a list or mapping of them."""
        self._digest.update(type(value).__qualname__.encode() + b":")
        if depth > _DEEPEST:
            return self
        if value is None or isinstance(value, (bool, int, float, str, torch.dtype)):
            self._digest.update(repr(value).encode())
        elif isinstance(value, torch.Tensor):
            self._add_tensor(value)
        elif isinstance(value, torch.nn.Module):
            self.add_weights(value, {})
        else:
            for part in _parts(value):
                self.add(part, depth + 1)
        self._digest.update(b";")
        return self

    def add_weights(self, module: torch.nn.Module, originals: Mapping[str, torch.Tensor]) -> "Fingerprint":
        """Adds some of a module's weights; `originals`: weights as they were before the host patched them in place."""
        parameters = sorted(module.named_parameters(), key=lambda item: item[0])
        for name, parameter in parameters[::max(len(parameters) // _SAMPLED_TENSORS, 1)]:
            self._digest.update(name.encode())
            self._add_tensor(originals.get(name, parameter), sampled=True)
        return self

    def hexdigest(self) -> str:
        """32 hexadecimal digits."""
        return self._digest.hexdigest()[:32]

    def _add_tensor(self, tensor: torch.Tensor, sampled: bool = False) -> None:
        numbers = tensor.detach().flatten()
        if self._short or sampled:
            numbers = numbers[::max(len(numbers) // _SAMPLED_NUMBERS, 1)]
        self._digest.update(str(tuple(tensor.shape)).encode())
        self._digest.update(numbers.float().cpu().contiguous().numpy().tobytes())


def model_fingerprint(model, clip_vision, vae) -> str:
    """Of the host's MODEL with its LoRAs, patches and attachments, CLIP_VISION and VAE."""
    # The backup, while the host has LoRAs patched in, holds the weights as they were.
    originals = {key: entry.weight for key, entry in model.backup.items()}
    return Fingerprint(short=True).add_weights(model.model, originals).add(
        [model.patches, model.attachments, model.model_options, sorted(model.object_patches),
         clip_vision.model, vae.first_stage_model]).hexdigest()


def _parts(value: object) -> list:
    if isinstance(value, Mapping):
        return [[str(key), value[key]] for key in sorted(value, key=str)]
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    if hasattr(value, "__qualname__"):
        closure = getattr(value, "__closure__", None) or ()
        return [f"{value.__module__}.{value.__qualname__}", *(_contents(cell) for cell in closure)]
    # A LoRA and its like.
    return list(getattr(value, "weights", ()) or ())


def _contents(cell) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return None
