"""Locks between processes that the kernel frees when their holder dies.

POSIX record locks, not `flock`: they are not inherited by children, so an orphaned worker never keeps one. Their two
traps are handled here: they do not exclude threads of one process (a table per process does), and closing any
descriptor of the file frees them (only this module opens these files, and never one that is held).
"""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_POLL_SECONDS = 0.1
_guard = threading.Lock()
_held: dict[Path, int] = {}


def try_acquire(path: Path) -> bool:
    """Take the lock at `path` if it is free; False when another process, or another holder in this one, has it."""
    path = path.resolve()
    with _guard:
        if path in _held:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        _held[path] = descriptor
        return True


def acquire(path: Path, timeout: float | None = None) -> bool:
    """Wait for the lock at `path`, at most `timeout` seconds (None: for ever); say whether it was taken."""
    end = None if timeout is None else time.monotonic() + timeout
    while not try_acquire(path):
        if end is not None and time.monotonic() >= end:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def release(path: Path) -> None:
    """Free the lock at `path`, which this process holds."""
    with _guard:
        os.close(_held.pop(path.resolve()))


def is_free(path: Path) -> bool:
    """Say whether nobody holds the lock at `path` just now."""
    if not path.exists():
        return True
    if not try_acquire(path):
        return False
    release(path)
    return True


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock at `path` for the block, waiting as long as it takes."""
    acquire(path)
    try:
        yield
    finally:
        release(path)
