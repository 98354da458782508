"""One set-up at a time in one checkout."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .subprocesses import say

if os.name == "nt":
    import msvcrt

    def try_lock(stream: IO) -> bool:
        stream.seek(0)
        try:
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def try_lock(stream: IO) -> bool:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def setup_lock(path: Path) -> Iterator[int]:
    """Wait until no other dev.py sets up this checkout; yields the lock's file descriptor.

    The system releases the lock when its last holder ends, however it ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as stream:
        if not try_lock(stream):
            say("Another dev.py is setting up this checkout; waiting for it.")
            while not try_lock(stream):
                time.sleep(0.3)
        yield stream.fileno()
