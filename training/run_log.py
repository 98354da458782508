"""The log of a run as JSON lines, and the wish to stop it."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from ..common.atomic_write import atomic_write
from .json_lines import append_line

if TYPE_CHECKING:
    from typing import Self


class RunLog:
    """Appends one JSON object a line; entries of steps after the one resumed from are dropped first.

    A line that cannot be written, as on a full disk, is left out: losing it is no reason to lose the run.
    """

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

    def __enter__(self) -> Self:
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


class StopSignals:
    """Turns the first Ctrl-C (or SIGTERM) into a wish to stop after the step; the second acts as usual."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        # Only the main thread may set handlers; elsewhere the run simply cannot be stopped this way.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._request)
        return self

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(number, self._before[number])

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
