"""Logs as JSON lines: a full disk may cost a line, but neither damages the file nor ends the run."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from types import TracebackType

from ..common.atomic_write import atomic_write

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


class RunLog:
    """The log of a run: one JSON object a line. Entries of steps after the one resumed from are dropped first."""

    def __init__(self, path: Path, step: int, writing: bool = True) -> None:
        self.path = path
        self.writing = writing
        self._lap = time.perf_counter()
        if writing and path.exists():
            self._drop_after(step)

    def _drop_after(self, step: int) -> None:
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if _step_of(line) <= step]
        if kept != lines:
            with atomic_write(self.path) as temporary:
                temporary.write_text("".join(kept), encoding="utf-8")

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self.write(event="stopped", reason=str(error) or type(error).__name__)

    def write(self, **entry: object) -> None:
        """Write an entry with the time of day (seconds since 1970)."""
        if self.writing:
            append_line(self.path, {"time": round(time.time(), 3), **entry})

    def lap(self) -> float:
        """Seconds since the last call."""
        before, self._lap = self._lap, time.perf_counter()
        return round(self._lap - before, 4)


def _step_of(line: str) -> float:
    """The step of a log line; a line cut short by a crash is dropped."""
    try:
        return json.loads(line).get("step", 0)
    except ValueError:
        return float("inf")
