"""Saved graphs in API form as they run today: brought up to date before the host checks them."""

import sys

from .old_names import with_new_names
from .old_settings import with_settings_nodes


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
