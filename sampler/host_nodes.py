"""Other nodes' patches on the MODEL: which node left them, and which have no meaning in two directions."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any

import comfy.model_management

import nodes as host

from ..common.out_of_memory import is_out_of_memory

_HOSTS_UNETS = os.path.join(os.path.dirname(os.path.abspath(comfy.model_management.__file__)), "ldm")
_NO_WINDOWS = "the directions share their attention over the whole clip"
_NO_CALLS_OF_ITS_OWN = "it makes the model calls itself, which here are those of two directions"
_NO_CONDITIONING_OF_ITS_OWN = "it calls the model with conditioning of its own, which has no last keyframe"
_CONTEXT_WINDOWS = "Context Windows (ContextWindowsManual, WanContextWindowsManual, LTXVContextWindows)"


def node_behind(thing: object) -> str:
    """The id of the node whose function or object this is, or where it comes from."""
    found: Any = thing if hasattr(thing, "__qualname__") else type(thing)
    # A type checker takes `nodes` for the folder of ours.
    classes: dict[str, Any] = host.NODE_CLASS_MAPPINGS  # pyright: ignore[reportAttributeAccessIssue]
    name, module = found.__qualname__.split(".")[0], found.__module__
    for identity, node in classes.items():
        if node.__module__ == module and node.__qualname__ == name:
            return identity
    siblings = [
        identity for identity, node in classes.items() if node.__module__ == module and "MODEL" in node.RETURN_TYPES
    ]
    return " or ".join(siblings[:4]) or f"{name} of {module}"


def nodes_behind(things: Iterable[object]) -> str:
    """The same for several, each once."""
    return ", ".join(dict.fromkeys(node_behind(thing) for thing in things))


def check_additions(model, one_direction_at_a_time: bool) -> None:
    """Raises ValueError, naming the node, for what has no meaning in two directions.

    `one_direction_at_a_time`: whether each direction makes a step of its own, as in the alternating strategies.
    """
    options = model.model_options
    transformer_options = options.get("transformer_options", {})
    if "context_handler" in options:
        raise _refused(_CONTEXT_WINDOWS, _NO_WINDOWS)
    if "sampler_calc_cond_batch_function" in options:
        raise _refused(node_behind(options["sampler_calc_cond_batch_function"]), _NO_CALLS_OF_ITS_OWN)
    for function in guidance_functions(options):
        if _holds_conditioning(function):
            raise _refused(node_behind(function), _NO_CONDITIONING_OF_ITS_OWN)
    replaced = transformer_options.get("patches_replace", {}).get("attn1")
    if replaced:
        raise ValueError(
            "model: expected the UNet's own self-attention, found it replaced by another node, "
            f"{nodes_behind(replaced.values())}. Disconnect that node from the model."
        )
    cache = transformer_options.get("easycache")
    if cache is not None and one_direction_at_a_time:
        raise _refused(
            getattr(cache, "name", "EasyCache"),
            "with the alternating strategies the directions take their "
            "turns, and a cache would give one direction's result to the other",
            "choose another strategy",
        )


def patches_of_nodes(options: dict) -> list[object]:
    """The patches in the UNet, which may compare the guidance halves of a call, as Normalized Attention Guidance does.

    With them each direction makes the host's ordinary step, a call of its own.
    """
    transformer_options = options.get("transformer_options", {})
    listed = [patch for patches in transformer_options.get("patches", {}).values() for patch in patches]
    return listed + [
        patch for patches in transformer_options.get("patches_replace", {}).values() for patch in patches.values()
    ]


def wrapping_nodes(transformer_options: dict, function_wrapper: Callable | None) -> str:
    """ " (ids)" of the nodes that wrap or patch the UNet's calls, or nothing."""
    found = call_wrappers(transformer_options, function_wrapper)
    found += [function for functions in transformer_options.get("patches", {}).values() for function in functions]
    return f" ({nodes_behind(found)})" if found else ""


def call_wrappers(transformer_options: dict, function_wrapper: Callable | None) -> list[Callable]:
    """What other nodes have put around the UNet's calls; `function_wrapper`: the host's single slot for one."""
    return [*([] if function_wrapper is None else [function_wrapper]), *_wrappers(transformer_options)]


@contextmanager
def naming_failures(options: dict) -> Iterator[None]:
    """Within it, an error inside a function that a node left on the model is a ValueError that names the node.

    Most are made for another kind of model, and say so in torch's words only.
    """
    try:
        yield
    except comfy.model_management.InterruptProcessingException:
        raise
    except Exception as error:
        failed = [] if is_out_of_memory(error) or str(error).startswith("model: ") else _failed(error, options)
        if not failed:
            raise
        said = (str(error).splitlines() or [""])[0][:200]
        raise ValueError(
            f"model: {nodes_behind(failed)} failed on this model, Stable Video Diffusion, for which it "
            f"may not be made ({type(error).__name__}: {said}). Disconnect it from the model."
        ) from error


def _failed(error: Exception, options: dict) -> list[Callable]:
    """The functions of other nodes in which, or by whose results, the error arose."""
    transformer_options = options.get("transformer_options", {})
    patches = [function for functions in transformer_options.get("patches", {}).values() for function in functions]
    passed, trace = [], error.__traceback__
    while trace is not None:
        passed.append(trace.tb_frame.f_code)
        trace = trace.tb_next
    inside = [function for function in [*patches, *guidance_functions(options)] if _code(function) in passed]
    # Any inner error passes through a wrapper; only tracebacks that end in its file are its own.
    inside += [
        wrapper
        for wrapper in _wrappers(transformer_options)
        if (code := _code(wrapper)) in passed and code is not None and code.co_filename == passed[-1].co_filename
    ]
    if inside or not passed[-1].co_filename.startswith(_HOSTS_UNETS):
        return inside[:1]
    return patches


def _code(function: Callable) -> CodeType | None:
    return getattr(function, "__code__", getattr(type(function).__call__, "__code__", None))


def _wrappers(transformer_options: dict) -> list[Callable]:
    return [
        wrapper
        for wrappers in transformer_options.get("wrappers", {}).values()
        for functions in wrappers.values()
        for wrapper in functions
    ]


def guidance_functions(options: dict) -> list[Callable]:
    """The functions around guidance, in the order in which the host calls them."""
    custom_cfg = [options["sampler_cfg_function"]] if "sampler_cfg_function" in options else []
    return [*options.get("sampler_pre_cfg_function", []), *custom_cfg, *options.get("sampler_post_cfg_function", [])]


def _holds_conditioning(function: Callable) -> bool:
    """Whether the function was given conditioning when its node made it."""

    def is_conditioning(value: object) -> bool:
        return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "uuid" in value[0]

    return any(is_conditioning(_content(cell)) for cell in getattr(function, "__closure__", None) or ())


def _content(cell) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _refused(node: str, reason: str, instead: str = "") -> ValueError:
    advice = f"Disconnect it from the model{', or ' + instead if instead else ''}."
    return ValueError(f"model: {node} cannot be used with dual-direction sampling: {reason}. {advice}")
