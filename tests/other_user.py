"""Functions that run as other users of this machine, in processes that import them as root."""

import encodings.idna  # noqa: F401  # the same, for sockets
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from homegrown.store.manifest import libraries

GROUP = 20001
ALICE, BOB, EVE = 20011, 20012, 20013
"""Users without names; the first two are in the group."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def started(user: int, work: Callable[..., object], *arguments: Any, umask: int = 0o022) -> BaseProcess:
    """Start a function in a process of another user."""
    process = multiprocessing.get_context("spawn").Process(target=_become, args=(user, umask, work, arguments))
    process.start()
    return process


def done(user: int, work: Callable[..., object], *arguments: Any, umask: int = 0o022) -> int | None:
    """Run a function as another user, and return the exit code of its process: 0, or 1 after an exception."""
    process = started(user, work, *arguments, umask=umask)
    process.join()
    return process.exitcode


def _become(user: int, umask: int, work: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    libraries()  # imports what the other user may not be able to read
    os.setgroups([GROUP] if user in (ALICE, BOB) else [])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    os.umask(umask)
    work(*arguments)


@contextmanager
def open_folder() -> Iterator[Path]:
    """Yield a temporary folder that all users can reach; pytest closes its own to others."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)
