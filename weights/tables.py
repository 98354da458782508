"""JSON tables that come with a model: read only from ordinary files of a sensible size, whatever they are links to."""

import json
import os
from pathlib import Path

from .errors import WeightsError, plain_name

# Configurations have a few thousand characters.
_LARGEST = 2**20


def read_table(path: Path) -> dict:
    """The table in a JSON file. Raises WeightsError when there is none, or something else in its place."""
    name = plain_name("/".join(Path(path).parts[-2:]))
    if not os.path.exists(path):
        raise WeightsError(f"Expected {name}, found none. Download the model's whole folder.")
    # A pipe would be waited for, a device read without end.
    if not os.path.isfile(path):
        raise WeightsError(
            f"Expected an ordinary file as {name}, found a folder, pipe or device. Download the model's folder again."
        )
    try:
        with open(path, "rb") as file:
            text = file.read(_LARGEST + 1)
    except OSError as error:
        raise WeightsError(f"Could not read {name}: {error.strerror}.") from error
    return parse_table(text, name)


def parse_table(text: str | bytes, name: str) -> dict:
    """The table in a JSON text that stands in `name`. Raises WeightsError when it holds anything else."""
    try:
        if len(text) > _LARGEST:
            raise ValueError(f"it is longer than {_LARGEST:,} characters")
        # Windows' editors put a mark before the text.
        table = json.loads(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
    except RecursionError as error:
        raise WeightsError(f"Expected a JSON table in {name}, found one nested too deep. Download it again.") from error
    except ValueError as error:
        raise WeightsError(f"Expected a JSON table in {name}: {error}. Download it again.") from error
    if not isinstance(table, dict):
        raise WeightsError(f"Expected a JSON table in {name}, found a {type(table).__name__}. Download it again.")
    return table
