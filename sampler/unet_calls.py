"""In which calls the four videos of one evaluation go through the UNet; the result is the same for every order.

An evaluation needs two directions, each with conditioning (positive) and without (negative).

`batched`: one call of four videos. `paired`: one call a guidance half, both directions in it. `sequential`: one video a
call, the forward direction's attention maps kept until the backward direction has used them.
"""

from collections.abc import Callable

from .settings import VIDEOS_PER_CALL

Part = tuple[str, str]

_CALLS: dict[str, list[list[Part]]] = {
    # The host takes the last part of a call first when it has to split it: forward parts, whose maps the backward
    # ones need, stand last.
    "4": [[("negative", "backward"), ("positive", "backward"), ("negative", "forward"), ("positive", "forward")]],
    "2": [
        [("negative", "backward"), ("negative", "forward")],
        [("positive", "backward"), ("positive", "forward")],
    ],
    "1": [
        [("negative", "forward")],
        [("negative", "backward")],
        [("positive", "forward")],
        [("positive", "backward")],
    ],
}


def calls(
    order: str, guided: bool, directions: tuple[str, ...] = ("forward", "backward"), apart: bool = False
) -> list[list[Part]]:
    """The UNet calls of one evaluation as lists of (guidance half, direction); without guidance only the positive.

    With one direction alone a call of two videos holds its two halves, which is the host's ordinary SVD step; with
    `apart`, each direction is such a call.
    """
    if order != "1" and (apart or len(directions) == 1):
        work = [[("positive", direction), ("negative", direction)] for direction in ("forward", "backward")]
    else:
        work = _CALLS[order]
    kept = [
        [(half, direction) for half, direction in call if (guided or half == "positive") and direction in directions]
        for call in work
    ]
    return [call for call in kept if call]


def lower_order(order: str) -> str | None:
    """The next order that needs less memory, or None."""
    following = VIDEOS_PER_CALL.index(order) + 1
    return VIDEOS_PER_CALL[following] if following < len(VIDEOS_PER_CALL) else None


def choose_order(memory_of_videos: Callable[[int], float], free_memory: float, many_kernels: bool) -> str:
    """The fastest order that fits.

    `memory_of_videos(n)`: bytes that a call of n videos needs; `free_memory`: bytes. Paired is the fastest and needs
    the memory of an ordinary guided SVD step. One call of four pays only on a device whose time goes into launching
    kernels (`many_kernels`), and only with plenty of room.
    """
    if many_kernels and 4 * memory_of_videos(4) < free_memory:
        return "4"
    return "2" if memory_of_videos(2) < free_memory else "1"
