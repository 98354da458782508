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
