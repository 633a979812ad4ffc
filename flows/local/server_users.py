"""The processes that use a server of this machine: it ends with the last of them.

Each user has a lock in the folder of the server's address, which the kernel releases when the process dies. The lock
`gate` makes starting, joining and ending exclude each other: a server that ends keeps it until its process is dead, so
a new user either keeps the server or starts the next one.
"""

import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from prefect.settings import get_current_settings

from homegrown.util import locks

STOP_SECONDS = 20.0
"""Time for a server to stop after SIGTERM."""
_POLL_SECONDS = 0.5
_USER = "user."


def folder_of(api: str) -> Path:
    """Return the folder of the locks for a server's address: that of a running server, whatever its PREFECT_HOME."""
    place = urlsplit(api).netloc
    if running := _of_running_server(place):
        return running
    return (
        get_current_settings().home
        / "homegrown"
        / "".join(character if character.isalnum() else "-" for character in place)
    )


def _of_running_server(place: str) -> Path | None:
    """Return the folder that a server of this user at HOST:PORT was started with; None without one."""
    for process in psutil.process_iter(["cmdline", "uids"]):
        module, *arguments = (process.info["cmdline"] or [""])[-4:]
        if module == "flows.local.guarded_server" and ":".join(arguments[:2]) == place:
            if process.info["uids"] and process.info["uids"].real == os.getuid():
                return Path(arguments[2])
    return None


def gate(folder: Path) -> AbstractContextManager[None]:
    """Exclude other starts, joins and ends for the block."""
    return locks.exclusive(folder / "gate")


@contextmanager
def registered(folder: Path) -> Iterator[Path]:
    """Make this process a user of the server for the block; yield the file of its lock."""
    user = folder / f"{_USER}{os.getpid()}-{uuid.uuid4().hex}"
    with gate(folder):
        locks.acquire(user)
    try:
        yield user
    finally:
        user.unlink(missing_ok=True)
        locks.release(user)


def is_used(folder: Path, besides: Path | None = None) -> bool:
    """Return whether any process but the one of `besides` uses the server."""
    return any(user != besides and not locks.is_free(user) for user in folder.glob(f"{_USER}*"))


def end_with_users(folder: Path) -> None:
    """End this process, a server, when nobody uses it; the check runs in a thread."""
    threading.Thread(target=_end_with_users, args=(folder,), name="users", daemon=True).start()


def _end_with_users(folder: Path) -> None:
    while is_used(folder) or not _closed(folder):
        time.sleep(_POLL_SECONDS)
    for user in folder.glob(f"{_USER}*"):  # of killed processes
        user.unlink(missing_ok=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os._exit(0)


def _closed(folder: Path) -> bool:
    """Take the gate for good if still nobody uses the server; return whether it was taken."""
    if not locks.try_acquire(folder / "gate"):
        return False
    if is_used(folder):
        locks.release(folder / "gate")
        return False
    return True
