"""A node's schema in every supported version of the host."""

import dataclasses

from comfy_api.latest import io

CATEGORY = "inbetweening"
_FIELDS = {field.name for field in dataclasses.fields(io.Schema)}


def schema(search_aliases: list[str], **fields) -> io.Schema:
    """io.Schema in the pack's category, with search aliases where the host has them (ComfyUI 0.3.75 has not)."""
    if "search_aliases" in _FIELDS:
        fields["search_aliases"] = search_aliases
    return io.Schema(category=CATEGORY, **fields)


def advanced(*inputs: io.Input) -> list[io.Input]:
    """Inputs that the window shows only when it is asked for a node's advanced ones."""
    for item in inputs:
        # ComfyUI 0.3.75 has no argument for it, but hands this on to its window, which knows it.
        item.extra_dict["advanced"] = True
    return list(inputs)


def optional(*inputs: io.Input) -> list[io.Input]:
    """Inputs that a graph in API form may leave out; in the window nothing changes."""
    for item in inputs:
        item.optional = True
    return list(inputs)
