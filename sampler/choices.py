"""A check that the host leaves to the nodes: ComfyUI 0.3.75 hands on list choices that are not in the list."""

from collections.abc import Iterable

from ..weights.errors import quoted


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raises ValueError, naming the input, when `value` is none of the choices."""
    choices = list(choices)
    if value not in choices:
        raise ValueError(
            f"{name}: expected one of {', '.join(choices)}, found {quoted(value)}. Choose one from the list."
        )
