"""Files written whole: readers never see half of one.

Each is written under another name, and renamed when it is on the disk.

What a killed process leaves half-written is a folder `.<name>.<8 hex digits>.partial` beside the file. A living writer
holds a lock on its folder, so the next write there knows which ones are abandoned, and removes them.
"""

import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_PARTIAL = re.compile(r"\..+\.[0-9a-z_]{8}\.partial", re.DOTALL)
# Where nothing can be locked (Windows, some network disks), what is older was abandoned.
_DAY = 24 * 3600
# On Windows newer Pythons would bar all other users from a folder of 0o700, and the file takes its rights along.
_PRIVATE = 0o777 if os.name == "nt" else 0o700


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """The path of a new empty file to write to; it takes the place of `path` when the block ends.

    When the block raises, `path` stays as it was and nothing is left. The folder is made if there is none. The new file
    has the mode that the process's umask gives to new files. Raises OSError when it cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path.parent)
    folder, lock = _new_folder(path)
    try:
        # In a folder of its own: what a writer (safetensors is one) puts beside its file is found and removed with it.
        temporary = folder / f"new{path.suffix}"
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        mode = temporary.stat().st_mode
        yield temporary
        if temporary.stat().st_mode != mode:
            os.chmod(temporary, mode)
        _to_disk(temporary, os.O_RDWR)
        os.replace(temporary, path)
        if os.name != "nt":
            # The file is in its place: a disk that cannot sync folders (some network disks) is no reason to fail.
            with suppress(OSError):
                _to_disk(path.parent, os.O_RDONLY)
    finally:
        _remove(folder)
        if lock is not None:
            os.close(lock)


def write_json(path: Path, content: object) -> None:
    """Readable JSON, whole or not at all. Raises ValueError for NaN and infinity, which JSON has not."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _new_folder(path: Path) -> tuple[Path, int | None]:
    while True:
        folder = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.partial")
        folder.mkdir(mode=_PRIVATE)
        # Between its making and its locking another process may take it for abandoned.
        with suppress(FileNotFoundError, BlockingIOError):
            lock = _lock(folder)
            if folder.exists():
                return folder, lock
            if lock is not None:
                os.close(lock)


def _lock(folder: Path) -> int | None:
    """A descriptor that holds the folder's lock; None where there are no locks. BlockingIOError when it is held."""
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise
        return None


def _remove_abandoned(folder: Path) -> None:
    for name in os.listdir(folder):
        if _PARTIAL.fullmatch(name):
            # What cannot be removed, another user's for instance, hinders no write.
            with suppress(OSError):
                _remove_if_abandoned(folder / name)


def _remove_if_abandoned(path: Path) -> None:
    if path.is_symlink():
        return
    old = time.time() - path.stat().st_mtime > _DAY
    if not path.is_dir():
        # Earlier versions of this pack wrote to a file of that name, without a lock.
        if path.is_file() and old:
            path.unlink()
        return
    lock = _lock(path)
    if lock is not None or old:
        _remove(path)
    if lock is not None:
        os.close(lock)


def _remove(folder: Path) -> None:
    with suppress(OSError):
        for entry in folder.iterdir():
            entry.unlink()
        folder.rmdir()


def _to_disk(path: Path, access: int) -> None:
    # Without it a power cut just after the rename can leave the new name with nothing behind it.
    descriptor = os.open(path, access)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
