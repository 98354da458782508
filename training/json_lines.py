"""Logs as JSON lines that a full disk may cut short, but neither damage nor turn into the end of a run."""

from __future__ import annotations

import json
import logging
from pathlib import Path

logger = logging.getLogger(__name__)


def append_line(path: Path, entry: dict[str, object]) -> None:
    """Append one JSON object to a file of JSON lines, or none of it, and a warning, where that is not possible."""
    line = (json.dumps(entry) + "\n").encode()
    try:
        with path.open("ab", buffering=0) as file:
            before = file.tell()
            try:
                written = file.write(line)
                if written < len(line):
                    # A disk that has room for a part takes the part; the rest says what is wrong.
                    file.write(line[written:])
            except OSError:
                file.truncate(before)
                raise
    except OSError as error:
        logger.warning("%s: a line is left out, the run goes on: %s", path.name, error.strerror)
