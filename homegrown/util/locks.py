"""Locks between processes that the kernel releases when their owner dies.

POSIX record locks, not `flock`: children do not inherit them, so an orphaned worker never keeps one. They have two
traps. They do not exclude threads of one process, so a table per process does. Closing any descriptor of the file
releases them, so only this module opens these files, and never a locked one.
"""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_POLL_SECONDS = 0.1
_guard = threading.Lock()
_locked: dict[Path, int] = {}


def try_acquire(path: Path) -> bool:
    """Acquire the lock at `path` if it is free; return whether it was acquired."""
    path = path.resolve()
    with _guard:
        if path in _locked:
            return False
        descriptor = _opened(path)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        _locked[path] = descriptor
        return True


def make_public(path: Path) -> None:
    """Create the file of a lock that all users of the machine share."""
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
        os.fchmod(descriptor, 0o666)
        os.close(descriptor)


def acquire(path: Path, timeout: float | None = None) -> bool:
    """Wait for the lock at `path`, at most `timeout` seconds (None: forever); return whether it was acquired."""
    end = None if timeout is None else time.monotonic() + timeout
    while not try_acquire(path):
        if end is not None and time.monotonic() >= end:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def release(path: Path) -> None:
    """Release the lock at `path`, which this process owns."""
    with _guard:
        os.close(_locked.pop(path.resolve()))


def is_free(path: Path) -> bool:
    """Return whether the lock at `path` is free now; this writes nothing. One that cannot be read counts as free."""
    path = path.resolve()
    with _guard:
        if path in _locked:
            return False
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return True
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Own the lock at `path` during the block; wait for it without a timeout."""
    acquire(path)
    try:
        yield
    finally:
        release(path)


def _opened(path: Path) -> int:
    """Open the file of a lock, and create it if it is missing.

    In a folder for all users, such as /tmp, Linux refuses O_CREAT for an existing file of another user.
    """
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
