"""Remarks on a run that works but may disappoint: a line on the console and, while a server runs, on the node."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from comfy_execution.utils import get_executing_context

logger = logging.getLogger(__name__)

_made: ContextVar[list[str] | None] = ContextVar("inbetween_remarks", default=None)
# Nodes on which a remark of an earlier run is still to be read.
_shown: set[str] = set()


@contextmanager
def remarks_on_node() -> Iterator[None]:
    """While a node runs: each remark is made once, and those of its last run are taken from it.

    Inside another such block it does nothing.
    """
    if _made.get() is not None:
        yield
        return
    token = _made.set([])
    try:
        yield
        if not _made.get():
            _show("")
    finally:
        _made.reset(token)


def remark(text: str) -> None:
    """Says `text`, one sentence, once a run."""
    made = _made.get()
    if made is not None:
        if text in made:
            return
        made.append(text)
    logger.warning("%s", text)
    _show("\n".join(made or [text]))


def _show(text: str) -> None:
    context = get_executing_context()
    # Without a server there is no window: nothing is imported for it.
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if context is None or server is None or (not text and context.node_id not in _shown):
        return
    _shown.add(context.node_id) if text else _shown.discard(context.node_id)
    # The window ignores an empty text.
    server.send_progress_text(text or " ", context.node_id)
