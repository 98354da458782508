"""Saved graphs with names that inputs and choices had before: each is renamed before the host checks the graph.

web/old_names.json lists the names by the date of the change; the window reads it, too (web/old_names.js).
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OLD_NAMES: dict[str, dict] = json.loads(
    (Path(__file__).parents[1] / "web" / "old_names.json").read_text(encoding="utf-8")
)
logger = logging.getLogger(__name__)


def with_new_names(prompt: dict) -> dict:
    """A graph in API form with today's names, and a note on the console for each old one; `prompt` is not changed."""
    return {node: _renamed(node, content) for node, content in prompt.items()}


def names_before(node: str, name: str | None = None) -> Iterator[str]:
    """Names that a node's inputs had before; with `name`, those of the input that has it today."""
    for change in OLD_NAMES.values():
        if node in change["nodes"]:
            yield from (old for old, new in change["inputs"].items() if name in (None, new))


def _renamed(node: str, content: dict) -> dict:
    # What is no node with inputs is left to the host, which says so.
    if not isinstance(content, dict) or not isinstance(content.get("inputs"), dict):
        return content
    inputs = dict(content["inputs"])
    for change in OLD_NAMES.values():
        if content.get("class_type") not in change["nodes"]:
            continue
        for old, new in change["inputs"].items():
            if old in inputs:
                value = inputs.pop(old)
                inputs.setdefault(new, value)
                _note(node, content, f"the input {old} is now called {new}")
        for removed in change.get("removed", ()):
            if inputs.pop(removed, None) is not None:
                _note(node, content, f"there is no input {removed} any more, it is left out")
    for name, value in inputs.items():
        new = _new_name(content.get("class_type"), name, value)
        if new is not value:
            inputs[name] = new
            _note(node, content, f"{name} {value!r} is now called {new!r}")
    return {**content, "inputs": inputs}


def with_new_name(node: str, name: str, value: Any) -> Any:
    """Today's name of the value that an input of a node got, by a link for instance, which no graph shows."""
    new = _new_name(node, name, value)
    if new is not value:
        logger.warning("%s: %s %r is now called %r. Change the node that gives it.", node, name, value, new)
    return new


def _new_name(node: object, name: str, value: Any) -> Any:
    for change in OLD_NAMES.values():
        if isinstance(value, str) and node in change["nodes"]:
            value = change["values"].get(name, {}).get(value, value)
    return value


def _note(node: str, content: dict, what: str) -> None:
    logger.warning("Node %s (%s): %s. Save the workflow to keep the new name.", node, content["class_type"], what)
