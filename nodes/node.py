"""What every node of the pack has in common: its inputs are checked before it runs, and its remarks are shown on it."""

import functools
import inspect

from comfy_api.latest import io

from ..common.errors import quoted
from ..common.remarks import remarks_on_node
from .old_names import with_new_name
from .values import checked_value


class Node(io.ComfyNode):
    """A node whose `execute` gets the values that its schema promises, however they reach it.

    The host checks what a widget holds, not what comes by a link, and lets NaN pass. Raises ValueError, naming the
    input.
    """

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        execute = cls.__dict__.get("execute")
        # The host derives a class from ours for each run; that one has the checks already.
        if execute is not None and not hasattr(execute.__func__, "__wrapped__"):
            cls.execute = classmethod(_with_checked_inputs(cls, execute.__func__))  # pyright: ignore[reportAttributeAccessIssue]


def _with_checked_inputs(node: type[Node], execute):
    signature = inspect.signature(execute)
    # Settings that the node only hands on come together, as **chosen.
    together = next((each.name for each in signature.parameters.values() if each.kind is each.VAR_KEYWORD), None)
    # A schema lists the files of the models' folders: once is enough, for those are not looked at here.
    inputs = functools.cache(lambda: {item.id: item for item in node.define_schema().inputs})

    @functools.wraps(execute)
    def checked(cls, *args, **kwargs):
        # The host leaves out values of inputs that a node does not have, but not links to them.
        for name in kwargs.keys() - inputs().keys():
            raise ValueError(
                f"{node.__name__}: expected its inputs, {', '.join(inputs())}, found {quoted(name)}. Remove that "
                "link, or correct its name."
            )
        values = signature.bind(cls, *args, **kwargs).arguments
        if together is not None:
            values |= values.pop(together, {})
        for name, item in inputs().items():
            if name in values:
                values[name] = checked_value(item, with_new_name(node.__name__, name, values[name]))
        with remarks_on_node():
            return execute(**values)

    return checked
