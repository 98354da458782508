"""What the tensors of each network are called in diffusers' files and in ComfyUI."""

from collections.abc import Callable, Iterable

from ...common.errors import WeightsError, plain_name


def renamed(keys: Iterable[str], rename: Callable[[str], str | None], network: str, naming: str) -> dict[str, str]:
    """{key: its other name}; `network` and `naming` are what the message calls them.

    Raises WeightsError when `rename` has no name for a key.
    """
    names = {key: rename(key) for key in keys}
    known = {key: name for key, name in names.items() if name is not None}
    if unknown := [key for key in names if key not in known]:
        raise WeightsError(
            f"Expected the tensors of a Stable Video Diffusion {network} in {naming} names, found "
            f"{len(unknown)} that it does not have, the first: {plain_name(unknown[0])}"
        )
    return known
