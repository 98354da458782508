"""ComfyUI-GenerativeInbetweening: two pictures go in, the video between them comes out."""

import importlib.util
import logging
import re
import sys

WEB_DIRECTORY = "./web"
OLDEST_COMFYUI = (0, 3, 75)


async def comfy_entrypoint():
    """The pack's nodes, for ComfyUI."""
    from comfy_api.latest import ComfyExtension

    try:
        from .nodes import NODES
        from .nodes.old_graphs import accept_old_graphs
        from .weights.folders import register_backward_motion_folder

        register_backward_motion_folder()
        accept_old_graphs()
        for node in NODES:
            node.GET_SCHEMA()
    except Exception:
        _say("its nodes are not loaded")
        raise
    if (_numbers(_version()) or OLDEST_COMFYUI) < OLDEST_COMFYUI:
        _say("some of its nodes may fail")

    class GenerativeInbetweening(ComfyExtension):
        async def get_node_list(self):
            return NODES

    return GenerativeInbetweening()


def _say(consequence: str) -> None:
    oldest = ".".join(map(str, OLDEST_COMFYUI))
    logging.getLogger(__name__).warning(
        "ComfyUI-GenerativeInbetweening needs ComfyUI %s or newer, this is %s: %s. "
        "Nothing else in ComfyUI is affected.",
        oldest,
        _version(),
        consequence,
    )


def _version() -> str:
    try:
        from comfyui_version import __version__
    except ImportError:
        return "an older one"
    return str(__version__)


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version such as v0.3.75; none of one that has no three."""
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", version)
    return tuple(map(int, found.groups())) if found else ()


def _calls_the_entrypoint() -> bool:
    """Whether this ComfyUI knows extensions. One that does not never calls comfy_entrypoint."""
    try:
        from comfy_api.latest import ComfyExtension  # noqa: F401
    except Exception:  # noqa: BLE001 - an older ComfyUI fails in its own way
        return False
    return True


# Outside ComfyUI, as for training, there is nothing to say.
if ("folder_paths" in sys.modules or importlib.util.find_spec("folder_paths")) and not _calls_the_entrypoint():
    _say("its nodes are not loaded")
