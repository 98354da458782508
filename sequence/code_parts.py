"""What a function or class consists of, as far as it decides on a result.

Those of this pack, the host and installed libraries are known by their name and their versions. Of anyone else's, what
they do is looked at: their code, what they close over, and the global variables that their code names.
"""

import dis
import functools
import inspect
import os
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator
from pathlib import Path

import folder_paths
import torch

_PACK = Path(__file__).resolve().parents[1]
_FOLDERS = ("common", "nodes", "sampler", "sequence", "weights")
_CLASS_INTERNALS = frozenset(
    ("__dict__", "__weakref__", "__doc__", "__annotations__", "__firstlineno__", "__static_attributes__", "_abc_impl")
)


def function_parts(function: types.FunctionType) -> list[object]:
    """Name, code, defaults, attributes and outer variables; of other packs' functions their global variables, too."""
    parts = [
        function.__module__,
        function.__qualname__,
        function.__code__,
        function.__defaults__,
        function.__kwdefaults__,
        vars(function),
        list(function.__closure__ or ()),
    ]
    if not is_known(function):
        names = set(_names(function.__code__))
        used = {name: function.__globals__[name] for name in sorted(names & function.__globals__.keys())}
        outer = [content for cell in function.__closure__ or () for content in cell_parts(cell)]
        parts += [used, *_held_by_modules(names, [*used.values(), *outer, *_imported(names, function)])]
    return parts


def code_parts(code: types.CodeType) -> list[object]:
    """Its instructions and what they refer to; not where it stands in which file."""
    return [
        code.co_code,
        code.co_consts,
        code.co_names,
        code.co_varnames,
        code.co_freevars,
        code.co_argcount,
        code.co_kwonlyargcount,
        code.co_flags,
        # Since Python 3.11 what a `try` covers stands beside the instructions.
        getattr(code, "co_exceptiontable", b""),
    ]


def class_parts(cls: type) -> list[object]:
    """Its name and bases; of other packs' classes, and of those made in a function, everything in it."""
    # By the bases, too: the host puts a model's kind of prediction together of two classes.
    parts = [cls.__module__, cls.__qualname__, *(base for base in cls.__bases__ if base is not object)]
    if not is_known(cls) or "<locals>" in cls.__qualname__:
        parts += [[name, value] for name, value in vars(cls).items() if name not in _CLASS_INTERNALS]
    return parts


def cell_parts(cell: types.CellType) -> list[object]:
    """What an outer variable holds; nothing before it is set."""
    try:
        return [cell.cell_contents]
    except ValueError:
        return []


def rebound_cells(function: types.FunctionType) -> list[types.CellType]:
    """The outer variables that the function itself sets."""
    instructions = dis.get_instructions(function.__code__)
    names = {instruction.argval for instruction in instructions if instruction.opname == "STORE_DEREF"}
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return [cell for name, cell in cells if name in names]


def is_known(item: types.FunctionType | type) -> bool:
    """Whether a function or class is of this pack, the host or a library: known by its name and their versions."""
    return _is_known_module(item.__module__)


@functools.cache
def _is_known_module(name: str | None) -> bool:
    module = sys.modules.get(name or "")
    file = getattr(module, "__file__", None)
    if module is None or name is None or name == "__main__":
        return False
    if file is None:
        return name in sys.builtin_module_names or name.partition(".")[0] in ("torch", *sys.stdlib_module_names)
    path = Path(file).resolve()
    if any(path.is_relative_to(_PACK / folder) for folder in _FOLDERS):
        return True
    if any(path.is_relative_to(Path(folder).resolve()) for folder in folder_paths.get_folder_paths("custom_nodes")):
        return False
    libraries = {
        *map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")),
        os.path.dirname(inspect.getfile(folder_paths)),
        os.path.dirname(os.path.dirname(inspect.getfile(torch))),
    }
    return any(path.is_relative_to(Path(folder).resolve()) for folder in libraries)


def _names(code: types.CodeType) -> Iterator[str]:
    """All names of globals and attributes in the code and in the functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _imported(names: set[str], function: types.FunctionType) -> list[types.ModuleType]:
    """Modules that the function may import while it runs, from its own package or any other."""
    package = function.__globals__.get("__package__")
    places = [place for name in sorted(names) for place in (name, f"{package}.{name}")]
    return [sys.modules[place] for place in places if sys.modules.get(place) is not None]


def _held_by_modules(names: set[str], values: Iterable[object], searched: tuple = ()) -> Iterator[tuple[str, object]]:
    """What modules of other packs among the values hold under these names, as no version stands for their content."""
    for module in values:
        if isinstance(module, types.ModuleType) and module not in searched and not _is_known_module(module.__name__):
            for name in sorted(names & vars(module).keys()):
                yield name, vars(module)[name]
                yield from _held_by_modules(names, [vars(module)[name]], (*searched, module))
