"""Code that runs as other users of this machine, in processes forked from this one."""

import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

GROUP = 20001
ALICE, BOB, EVE = 20011, 20012, 20013
"""Users without names; the first two are in the group."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def started(user: int, work: Callable[[], object], *, umask: int = 0o022) -> int:
    """Do something in a process of another user; return its process id. Only modules that are imported can be used."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.setgroups([GROUP] if user in (ALICE, BOB) else [])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        os.umask(umask)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def done(user: int, work: Callable[[], object], *, umask: int = 0o022) -> int:
    """Do something as another user, and return the exit code of the process: 0, or 1 after an exception."""
    return os.waitstatus_to_exitcode(os.waitpid(started(user, work, umask=umask), 0)[1])


def open_to_all(folder: Path) -> None:
    """Let all users reach a temporary folder."""
    for path in (folder, *folder.parents):
        if path.is_relative_to(tempfile.gettempdir()) and path != Path(tempfile.gettempdir()):
            path.chmod(path.stat().st_mode | 0o755)
