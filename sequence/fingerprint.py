"""A fingerprint of models, pictures and settings: a finished clip is taken up again only where it is the same.

A clip that would come out differently now must never be taken up. So a value counts with everything that it holds:

- a tensor: every number, the number format, the shape;
- a container: its items, in their order;
- a function or class: what it does (`code_parts`), with the outer variables that a function closes over;
- a `torch.nn.Module`: its tensors, submodules, hooks and attributes;
- the host's MODEL: the model as it was before it was loaded and patched, and all that nodes put on it;
- any other object: its class, and what a pickle would hold of it.

What makes no difference to the result is left out: where weights are at the moment, and what the host or its patches
note while they load and run a model. What cannot be looked into (a generator, a lock, an extension's own objects) has
no fingerprint, and neither has anything that holds it.
"""

import functools
import hashlib
import logging
import types
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.supported_models_base
import comfy.utils
import numpy
import torch

from .code_parts import cell_parts, class_parts, code_parts, function_parts, is_known, rebound_cells

_THREADS = 8
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.layout, torch.memory_format)
# Which object it is or where it is, not what it does.
_ALIKE = (uuid.UUID, torch.device, logging.Logger, types.ModuleType)
# Kinds of values that Python and the host make, and what they consist of; the first that fits.
_KINDS: tuple[tuple[type | tuple[type, ...], Callable[[Any], Iterable[object]]], ...] = (
    (types.FunctionType, function_parts),
    (types.CodeType, code_parts),
    (type, class_parts),
    (types.CellType, cell_parts),
    (types.MethodType, lambda method: [method.__func__, method.__self__]),
    ((types.BuiltinFunctionType, types.MethodWrapperType), lambda method: [method.__qualname__, method.__self__]),
    (
        (
            types.WrapperDescriptorType,
            types.MethodDescriptorType,
            types.ClassMethodDescriptorType,
            types.GetSetDescriptorType,
            types.MemberDescriptorType,
        ),
        lambda descriptor: [descriptor.__qualname__, descriptor.__objclass__],
    ),
    ((staticmethod, classmethod), lambda method: [method.__func__]),
    (property, lambda attribute: [attribute.fget]),
    (functools.cached_property, lambda attribute: [attribute.func]),
    # It answers every question, also those that a pickle asks, with a warning.
    (comfy.supported_models_base.BASE, lambda config: [type(config), vars(config)]),
)
_PATCHER_PARTS = (
    "object_patches",
    "weight_wrapper_patches",
    "model_options",
    "callbacks",
    "wrappers",
    "injections",
    "hook_patches",
    "forced_hooks",
    "additional_models",
    "attachments",
)
_MODULE_PARTS = ("_parameters", "_buffers", "_modules")
_MODULE_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_TORCH_ATTRIBUTES = frozenset(vars(torch.nn.Module()))
# What the host notes on modules while it loads, moves and runs them.
_HOST_NOTES = frozenset(
    (
        "device",
        "current_patcher",
        "seed_key",
        "comfy_cast_weights",
        "prev_comfy_cast_weights",
        "comfy_patched_weights",
        "comfy_force_cast_weights",
        "weight_function",
        "bias_function",
        "weight_lowvram_function",
        "bias_lowvram_function",
        "model_loaded_weight_memory",
        "model_offload_buffer_memory",
        "model_lowvram",
        "lowvram_patch_counter",
        "current_weight_patches_uuid",
        "latent_shapes",
        "dynamic_vbars",
        "dynamic_pins",
        "dynamic_patchers",
    )
)
# What the host notes as the original of an attribute that only an object patch put there.
_NOT_THERE = getattr(comfy.utils, "ATTR_UNSET", object())


class CannotBeKnown(Exception):
    """Something affects the result but cannot be inspected; the message names it."""


def fingerprint(value: object) -> str:
    """32 hexadecimal digits of anything; the same digits in another process. Raises CannotBeKnown."""
    walk = _Walk()
    digest = walk.digest(value)
    if walk.run_state:
        # Which variables hold only what the last run left there is known after the first walk: once more without them.
        walk.forget()
        digest = walk.digest(value)
    return digest.hex()[:32]


def model_fingerprint(model, clip_vision, vae) -> str:
    """Of the host's MODEL with everything that nodes put on it, CLIP_VISION and VAE. Raises CannotBeKnown."""
    # The patchers first: they know what the others' weights were before they were patched. The host notes the VAE's
    # size when it first loads it.
    return fingerprint(
        [
            model,
            clip_vision.patcher,
            vae.patcher,
            type(clip_vision),
            vars(clip_vision),
            type(vae),
            {name: value for name, value in vars(vae).items() if name != "size"},
        ]
    )


class _Walk:
    """One walk through values that refer to each other. Each is looked at once; a way back to itself is a number."""

    def __init__(self) -> None:
        # Outer variables (ids of cells) in which one call of a host's patch leaves something for the next.
        self.run_state: set[int] = set()
        # By id, each with the value itself: so its id is not given to another one meanwhile.
        self._done: dict[int, tuple[object, bytes]] = {}
        self._tensors_done: dict[int, tuple[torch.Tensor, bytes]] = {}
        # On the way to the present value: each one's depth, and the names by which a message says who holds what.
        self._open: dict[int, int] = {}
        self._holders: list[str] = []
        self._originals = _Originals()

    def digest(self, value: Any) -> bytes:
        """32 bytes."""
        if type(value) in _PLAIN:
            return _sha256(type(value).__qualname__.encode(), repr(value).encode("utf-8", "surrogatepass"))
        if isinstance(value, _ALIKE):
            return _sha256(getattr(value, "__name__", type(value).__qualname__).encode())
        if isinstance(value, torch.Tensor):
            value = self._originals.tensor(value)
        if _is_ordinary(value):
            if id(value) not in self._tensors_done:
                self._tensors_done[id(value)] = value, self._numbers(value)
            return self._tensors_done[id(value)][1]
        if id(value) in self._done:
            return self._done[id(value)][1]
        if id(value) in self._open:
            return _sha256(b"back by", str(len(self._open) - self._open[id(value)]).encode())
        self._open[id(value)] = len(self._open)
        try:
            result = _sha256(type(value).__qualname__.encode(), *self._contents(value))
        except RecursionError as error:
            raise CannotBeKnown(self._unknown(value)) from error
        finally:
            del self._open[id(value)]
        self._done[id(value)] = value, result
        return result

    def forget(self) -> None:
        """Before another walk; the tensors' numbers are kept."""
        self._done.clear()

    def _contents(self, value: Any) -> Iterator[bytes]:
        """The digests of what a value consists of."""
        if isinstance(value, torch.Tensor):
            yield from self._unusual_tensor(value)
        elif type(value) in (list, tuple):
            yield from map(self.digest, value)
        elif type(value) in (set, frozenset):
            yield from sorted(map(self.digest, value))
        elif isinstance(value, (dict, types.MappingProxyType)):
            # In their order: nodes' wrappers act one after the other.
            yield self.digest(type(value))
            for item in value.items():
                yield from map(self.digest, item)
        elif isinstance(value, weakref.ref):
            yield self.digest(value())
        elif isinstance(value, numpy.ndarray) and not value.dtype.hasobject:
            yield self.digest([str(value.dtype), value.shape, value.tobytes()])
        else:
            named = value if isinstance(value, (types.FunctionType, type)) else type(value)
            self._holders.append(named.__qualname__)
            yield from map(self.digest, self._parts(value))
            self._holders.pop()

    def _parts(self, value: Any) -> Iterable[object]:
        if isinstance(value, comfy.model_patcher.ModelPatcher):
            return self._patcher_parts(value)
        if isinstance(value, torch.nn.Module):
            return self._module_parts(value)
        if isinstance(value, types.FunctionType) and is_known(value):
            # What such a function sets, the next run sets anew. Another pack's may count on what it left there.
            self.run_state.update(map(id, rebound_cells(value)))
        if isinstance(value, types.CellType) and id(value) in self.run_state:
            return []
        for kind, parts in _KINDS:
            if isinstance(value, kind):
                return parts(value)
        return self._object_parts(value)

    def _object_parts(self, value: object) -> Iterable[object]:
        # What a pickle would hold of it is what it is; whatever has a state of its own in C says that it cannot.
        try:
            reduced = type(value).__reduce_ex__(value, 4)
            if isinstance(reduced, str):
                parts = [reduced]
            else:
                function, arguments, state, items, entries = (*reduced, None, None, None)[:5]
                parts = [function, arguments, state, list(items or ()), list(entries or ())]
        except RecursionError:
            raise
        except Exception as error:
            raise CannotBeKnown(self._unknown(value)) from error
        # A class can decide that a pickle lacks something.
        return [type(value), *parts, *([vars(value)] if hasattr(value, "__dict__") else [])]

    def _patcher_parts(self, patcher: comfy.model_patcher.ModelPatcher) -> Iterator[object]:
        with ExitStack() as ejected:
            # What is injected at the moment is not the model's own.
            for loaded in comfy.model_management.current_loaded_models:
                if loaded.model is not None and loaded.model.is_clone(patcher):
                    ejected.enter_context(loaded.model.use_ejected())
            self._originals.note(patcher)
            yield type(patcher)
            yield patcher.model
            # Which weight comes first makes no difference.
            yield sorted(((str(key), patch) for key, patch in patcher.patches.items()), key=lambda item: item[0])
            for name in _PATCHER_PARTS:
                yield name
                yield getattr(patcher, name, None)
            yield getattr(patcher, "force_cast_weights", False)
            # The numbers of a generator of the device are the device's.
            yield getattr(patcher.load_device, "type", None)

    def _module_parts(self, module: torch.nn.Module) -> Iterator[object]:
        compiled = module.__dict__.get("_modules", {}).get("_orig_mod")
        if compiled is not None:
            yield compiled
            return
        self._note_numbers(module)
        yield type(module)
        for name in _MODULE_PARTS:
            for key, value in vars(module)[name].items():
                yield key
                yield self._originals.attribute(module, key, value)
        for name in _MODULE_HOOKS:
            yield list(vars(module)[name].values())
        # Beside those that are listed, the host's notes begin with an underscore.
        hosts = is_known(type(module))
        for name in sorted(set(vars(module)) - _TORCH_ATTRIBUTES - _HOST_NOTES):
            value = self._originals.attribute(module, name, vars(module)[name])
            if not ((hosts and name.startswith("_")) or value is _NOT_THERE or _is_own_method(module, name, value)):
                yield name
                yield value

    def _note_numbers(self, module: torch.nn.Module) -> None:
        """Hashes the tensors of a whole model beforehand, several at a time."""
        tensors = map(self._originals.tensor, (*module.parameters(), *module.buffers()))
        tensors = [tensor for tensor in tensors if _is_ordinary(tensor) and id(tensor) not in self._tensors_done]
        if tensors:
            with ThreadPoolExecutor(_THREADS) as pool:
                for tensor, numbers in zip(tensors, pool.map(self._numbers, tensors), strict=True):
                    self._tensors_done[id(tensor)] = tensor, numbers

    def _unusual_tensor(self, tensor: Any) -> Iterator[bytes]:
        if hasattr(tensor, "__tensor_flatten__"):
            names, context = tensor.__tensor_flatten__()
            yield self.digest([type(tensor), context, *(getattr(tensor, name) for name in names)])
        else:
            yield self.digest([type(tensor), vars(tensor)])
            yield self._numbers(tensor.as_subclass(torch.Tensor))

    def _numbers(self, tensor: torch.Tensor) -> bytes:
        try:
            flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
            return _sha256(repr((tensor.dtype, tuple(tensor.shape))).encode(), flat.view(torch.uint8).numpy())
        except (RuntimeError, TypeError, ValueError) as error:
            raise CannotBeKnown(self._unknown(tensor)) from error

    def _unknown(self, value: object) -> str:
        kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
        holders = [name for name in dict.fromkeys(self._holders) if name != type(value).__qualname__]
        return f"a {kind}" + (f" in {' → '.join(holders[-2:])}" if holders else "")


class _Originals:
    """Of models that are loaded and patched at the moment: the weights and attributes that were there before."""

    def __init__(self) -> None:
        self._tensors: dict[int, torch.Tensor] = {}
        self._attributes: dict[tuple[int, str], object] = {}

    def note(self, patcher: comfy.model_patcher.ModelPatcher) -> None:
        """Before its model is looked at."""
        model, weights = patcher.model, {}
        weights.update({key: entry[0] for key, entry in getattr(patcher, "hook_backup", {}).items()})
        weights.update({key: entry.weight for key, entry in patcher.backup.items()})
        weights.update(getattr(patcher, "backup_buffers", {}))
        for key, original in weights.items():
            self._tensors[id(comfy.utils.get_attr(model, key))] = original
        for key, original in patcher.object_patches_backup.items():
            parent, _, name = key.rpartition(".")
            self._attributes[id(comfy.utils.get_attr(model, parent) if parent else model), name] = original

    def tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """What stood in this weight's place, or the weight itself."""
        return self._tensors.get(id(tensor), tensor)

    def attribute(self, module: torch.nn.Module, name: str, value: object) -> object:
        """What the module had under this name, or the value that it has now."""
        return self._attributes.get((id(module), name), value)


def _is_ordinary(value: object) -> bool:
    return type(value) in (torch.Tensor, torch.nn.Parameter)


def _is_own_method(module: torch.nn.Module, name: str, value: object) -> bool:
    # The host takes an object patch back by setting the method that was there before.
    return (
        isinstance(value, types.MethodType)
        and value.__self__ is module
        and value.__func__ is getattr(type(module), name, None)
    )


def _sha256(*parts: Any) -> bytes:
    """Of bytes or arrays of bytes, each with its length: no two ways to cut them are alike."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
