"""The exception for weights files that cannot be used, and how its messages quote names and values."""

_LONGEST = 120


class WeightsError(ValueError):
    """A weights file or folder that cannot be used; the message says what was expected, found, and what to do."""


def quoted(value: object) -> str:
    """A value from outside (a workflow, a file) as a message shows it: its `repr`, cut at 120 characters.

    Writing a lone surrogate to the console would fail, and a huge name would hide the rest of the message.
    """
    # Cut before the repr: that of a text of a gigabyte is a gigabyte, too.
    text = repr(value[: _LONGEST + 1] if isinstance(value, (str, bytes)) else value)
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def plain_name(name: object) -> str:
    """A file's or tensor's name as a message shows it: without quotes if it is short and printable, else `quoted`."""
    name = str(name)
    return name if len(name) <= _LONGEST and repr(name) == f"'{name}'" else quoted(name)
