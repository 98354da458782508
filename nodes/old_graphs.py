"""Saved graphs in API form run as they did: each is brought up to date before the host checks it.

The sampler and the sequence once held their settings: such a graph gets a node that holds them. Then old names become
today's (old_names.py). web/old_settings.js and web/old_names.js do the same for graphs that the window opens.
"""

import logging
import sys

from ..sampler.settings import DEFAULT_PRESET, DEFAULTS
from .old_names import names_before, with_new_names

_HELD_SETTINGS = ("InbetweenDualDirectionKSampler", "InbetweenKeyframeSequence")
_NODE = "InbetweenSettings"
# Once the name of a preset that left everything to the inputs beside it.
_CUSTOM = "custom"
_VIDEOS_PER_CALL = "videos_per_call"
logger = logging.getLogger(__name__)


def accept_old_graphs() -> None:
    """Has the running server, if there is one, bring every graph that it is given up to date."""
    # Not imported: without a server running, as when a script loads the nodes, the module is better left alone.
    running = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if running is not None:
        running.add_on_prompt_handler(_in_request)


def up_to_date(prompt: dict) -> dict:
    """A graph in API form with today's nodes and names, and a note on the console for each change."""
    return with_new_names(with_settings_nodes(prompt))


def _in_request(request: dict) -> dict:
    prompt = request.get("prompt")
    return {**request, "prompt": up_to_date(prompt)} if isinstance(prompt, dict) else request


def with_settings_nodes(prompt: dict) -> dict:
    """A graph in API form whose old settings stand in nodes of their own; `prompt` is not changed."""
    names = {*DEFAULTS, _VIDEOS_PER_CALL, *names_before(_NODE)}
    result = dict(prompt)
    for node, content in prompt.items():
        # What is no node with inputs is left to the host, which says so.
        if not isinstance(content, dict) or not isinstance(content.get("inputs"), dict):
            continue
        inputs = content["inputs"]
        if content.get("class_type") in _HELD_SETTINGS and not names.isdisjoint(inputs):
            moved = {name: value for name, value in inputs.items() if name in names}
            kept = {name: value for name, value in inputs.items() if name not in names}
            _move(result, node, {**content, "inputs": kept}, moved)
    return result


def _move(result: dict, node: str, content: dict, moved: dict) -> None:
    """Puts the settings `moved` out of a node into `result`, and the node without them."""
    inputs, kind = content["inputs"], content["class_type"]
    preset = inputs.get("preset", _CUSTOM)
    if preset == _CUSTOM:
        inputs["preset"] = DEFAULT_PRESET
        holds = moved
    else:
        # Any other counted instead of the inputs beside it. This one was never a part of it.
        names = (_VIDEOS_PER_CALL, *names_before(_NODE, _VIDEOS_PER_CALL))
        holds = {name: moved[name] for name in names if moved.get(name, "auto") != "auto"}
    # A preset that comes by a link is known when the graph runs, and is named there if it is none.
    if holds and isinstance(inputs["preset"], str) and "settings" not in inputs:
        added = _free_id(result)
        result[added] = {"class_type": _NODE, "inputs": {"preset": inputs["preset"], **holds}}
        inputs["settings"] = [added, 0]
        logger.warning("Node %s (%s): its settings are now those of a node of their own, %s.", node, kind, _NODE)
    else:
        logger.warning("Node %s (%s): its preset counts, and the settings beside it are left out.", node, kind)
    result[node] = content


def _free_id(prompt: dict) -> str:
    number = len(prompt) + 1
    while str(number) in prompt:
        number += 1
    return str(number)
