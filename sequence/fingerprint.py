"""A fingerprint of models, pictures and settings, by which a finished clip is known to belong to the same request.

It takes in everything that a value holds: every number of every tensor, and of Python objects their class, attributes
and code with what that closes over. What cannot be looked into (a generator, a lock, an extension's own objects) has no
fingerprint. Where a model's weights are at the moment, and what it runs on, make no difference.
"""

import dis
import functools
import hashlib
import logging
import os
import sys
import sysconfig
import types
import uuid
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import comfy.supported_models_base
import comfy.utils
import folder_paths
import numpy
import torch

_THREADS = 8
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.layout, torch.memory_format)
# Which object it is or where it is, not what it does.
_ALIKE = (uuid.UUID, torch.device, logging.Logger, types.ModuleType)
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
_CLASS_INTERNALS = frozenset(
    ("__dict__", "__weakref__", "__doc__", "__annotations__", "__firstlineno__", "__static_attributes__", "_abc_impl")
)
# What the host notes as the original of an attribute that only an object patch put there.
_NOT_THERE = getattr(comfy.utils, "ATTR_UNSET", object())
_PACK = Path(__file__).resolve().parents[1]


class CannotBeKnown(Exception):
    """Something decides on the result and cannot be looked into; the message names it."""


def fingerprint(value: object) -> str:
    """32 hexadecimal digits of anything; the same digits in another process. Raises CannotBeKnown."""
    walk = _Walk()
    result = walk.digest(value)
    if walk.run_state:
        # Now that it is known which variables only say what the last run left, once more without them.
        walk.forget()
        result = walk.digest(value)
    return result.hex()[:32]


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

    def __init__(self):
        self.run_state: set[int] = set()
        self._done: dict[int, tuple[object, bytes]] = {}
        self._tensors_done: dict[int, tuple[torch.Tensor, bytes]] = {}
        self._open: dict[int, int] = {}
        self._holders: list[str] = []
        # Of models that are loaded and patched at the moment: what was there before.
        self._tensors: dict[int, torch.Tensor] = {}
        self._attributes: dict[tuple[int, str], object] = {}

    def digest(self, value: object) -> bytes:
        """32 bytes."""
        if type(value) in _PLAIN:
            return _sha256(type(value).__qualname__.encode(), repr(value).encode("utf-8", "surrogatepass"))
        if isinstance(value, _ALIKE):
            return _sha256(getattr(value, "__name__", type(value).__qualname__).encode())
        if isinstance(value, torch.Tensor):
            value = self._tensors.get(id(value), value)
        if _is_plain(value):
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
        # With the value itself, so that its id is not given to another one.
        self._done[id(value)] = value, result
        return result

    def forget(self) -> None:
        """Before another walk; the tensors' numbers are kept."""
        self._done.clear()

    def _contents(self, value: object) -> Iterator[bytes]:
        if isinstance(value, torch.Tensor):
            yield from self._tensor(value)
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
            # From here on things have names, by which a message can say who holds what cannot be known.
            named = value if isinstance(value, (types.FunctionType, type)) else type(value)
            self._holders.append(named.__qualname__)
            yield from map(self.digest, self._parts(value))
            self._holders.pop()

    def _parts(self, value: object) -> Iterable[object]:
        if isinstance(value, comfy.model_patcher.ModelPatcher):
            return self._patcher_parts(value)
        if isinstance(value, torch.nn.Module):
            return self._module_parts(value)
        if isinstance(value, types.FunctionType):
            return self._function_parts(value)
        if isinstance(value, types.CodeType):
            return [
                value.co_code,
                value.co_consts,
                value.co_names,
                value.co_varnames,
                value.co_freevars,
                value.co_argcount,
                value.co_kwonlyargcount,
                value.co_flags,
            ]
        if isinstance(value, type):
            return _class_parts(value)
        if isinstance(value, types.MethodType):
            return [value.__func__, value.__self__]
        if isinstance(value, (types.BuiltinFunctionType, types.MethodWrapperType)):
            return [value.__qualname__, value.__self__]
        if isinstance(
            value,
            (
                types.WrapperDescriptorType,
                types.MethodDescriptorType,
                types.ClassMethodDescriptorType,
                types.GetSetDescriptorType,
                types.MemberDescriptorType,
            ),
        ):
            return [value.__qualname__, value.__objclass__]
        if isinstance(value, (staticmethod, classmethod)):
            return [value.__func__]
        if isinstance(value, property):
            return [value.fget]
        if isinstance(value, types.CellType):
            return [] if id(value) in self.run_state else _cell_parts(value)
        if isinstance(value, functools.cached_property):
            return [value.func]
        if isinstance(value, comfy.supported_models_base.BASE):
            # It answers every question, also those that a pickle asks, with a warning.
            return [type(value), vars(value)]
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
            self._note_originals(patcher)
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

    def _function_parts(self, function: types.FunctionType) -> list[object]:
        parts = [
            function.__module__,
            function.__qualname__,
            function.__code__,
            function.__defaults__,
            function.__kwdefaults__,
            vars(function),
            list(function.__closure__ or ()),
        ]
        if _is_ours_or_hosts(function):
            # What a call of one of the host's patches leaves to the next, the next run sets anew.
            self.run_state.update(map(id, _rebound(function)))
        else:
            names = set(_global_names(function.__code__))
            used = {name: function.__globals__[name] for name in sorted(names & function.__globals__.keys())}
            outer = [content for cell in function.__closure__ or () for content in _cell_parts(cell)]
            parts += [used, *_held_by_modules(names, [*used.values(), *outer, *_imported(names, function)])]
        return parts

    def _note_originals(self, patcher: comfy.model_patcher.ModelPatcher) -> None:
        model, weights = patcher.model, {}
        weights.update({key: entry[0] for key, entry in getattr(patcher, "hook_backup", {}).items()})
        weights.update({key: entry.weight for key, entry in patcher.backup.items()})
        weights.update(getattr(patcher, "backup_buffers", {}))
        for key, original in weights.items():
            self._tensors[id(comfy.utils.get_attr(model, key))] = original
        for key, original in patcher.object_patches_backup.items():
            parent, _, name = key.rpartition(".")
            self._attributes[id(comfy.utils.get_attr(model, parent) if parent else model), name] = original

    def _note_numbers(self, module: torch.nn.Module) -> None:
        tensors = [self._tensors.get(id(tensor), tensor) for tensor in (*module.parameters(), *module.buffers())]
        tensors = [tensor for tensor in tensors if _is_plain(tensor) and id(tensor) not in self._tensors_done]
        if tensors:
            with ThreadPoolExecutor(_THREADS) as pool:
                for tensor, numbers in zip(tensors, pool.map(self._numbers, tensors), strict=True):
                    self._tensors_done[id(tensor)] = tensor, numbers

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
                yield self._attributes.get((id(module), key), value)
        for name in _MODULE_HOOKS:
            yield list(vars(module)[name].values())
        # Beside those that are listed, the host's notes begin with an underscore.
        hosts = _is_ours_or_hosts(type(module))
        for name in sorted(set(vars(module)) - _TORCH_ATTRIBUTES - _HOST_NOTES):
            value = self._attributes.get((id(module), name), vars(module)[name])
            if not ((hosts and name.startswith("_")) or value is _NOT_THERE or _is_own_method(module, name, value)):
                yield name
                yield value

    def _tensor(self, tensor: torch.Tensor) -> Iterator[bytes]:
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


def _is_plain(value: object) -> bool:
    return type(value) in (torch.Tensor, torch.nn.Parameter)


def _rebound(function: types.FunctionType) -> Iterator[types.CellType]:
    """Outer variables that the function itself sets."""
    names = {
        instruction.argval
        for instruction in dis.get_instructions(function.__code__)
        if instruction.opname == "STORE_DEREF"
    }
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if name in names:
            yield cell


def _global_names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def _imported(names: set[str], function: types.FunctionType) -> list[types.ModuleType]:
    """Modules that the function may import while it runs, from its own package or any other."""
    package = function.__globals__.get("__package__")
    places = [place for name in sorted(names) for place in (name, f"{package}.{name}")]
    return [sys.modules[place] for place in places if sys.modules.get(place) is not None]


def _held_by_modules(names: set[str], values: Iterable[object], searched: tuple = ()) -> Iterator[tuple[str, object]]:
    """What modules of other packs among the values hold under these names: their numbers are known by no version."""
    for module in values:
        if isinstance(module, types.ModuleType) and module not in searched and not _is_known_module(module.__name__):
            for name in sorted(names & vars(module).keys()):
                yield name, vars(module)[name]
                yield from _held_by_modules(names, [vars(module)[name]], (*searched, module))


def _class_parts(cls: type) -> list[object]:
    # By the bases, too: the host puts a model's kind of prediction together of two classes.
    parts = [cls.__module__, cls.__qualname__, *(base for base in cls.__bases__ if base is not object)]
    if not _is_ours_or_hosts(cls) or "<locals>" in cls.__qualname__:
        parts += [[name, value] for name, value in vars(cls).items() if name not in _CLASS_INTERNALS]
    return parts


def _cell_parts(cell: types.CellType) -> list[object]:
    try:
        return [cell.cell_contents]
    except ValueError:
        return []


def _is_own_method(module: torch.nn.Module, name: str, value: object) -> bool:
    # The host takes an object patch back by setting the method that was there before.
    return (
        isinstance(value, types.MethodType)
        and value.__self__ is module
        and value.__func__ is getattr(type(module), name, None)
    )


def _is_ours_or_hosts(item: object) -> bool:
    """Whether a function or class is of this pack, the host or a library: known by its name and their versions."""
    return _is_known_module(item.__module__)


@functools.cache
def _is_known_module(name: str | None) -> bool:
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if module is None or name == "__main__":
        return False
    if file is None:
        return name in sys.builtin_module_names or name.partition(".")[0] in ("torch", *sys.stdlib_module_names)
    path = Path(file).resolve()
    if any(path.is_relative_to(_PACK / folder) for folder in ("common", "nodes", "sampler", "sequence", "weights")):
        return True
    if any(path.is_relative_to(Path(folder).resolve()) for folder in folder_paths.get_folder_paths("custom_nodes")):
        return False
    libraries = {
        *map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")),
        os.path.dirname(folder_paths.__file__),
        os.path.dirname(os.path.dirname(torch.__file__)),
    }
    return any(path.is_relative_to(Path(folder).resolve()) for folder in libraries)


def _sha256(*parts) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
