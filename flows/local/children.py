"""Child processes that never outlive this one, however it ends."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_KILLED_SECONDS = 5.0


def start(arguments: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
    """Start `python arguments…` with its output at the end of the file `log`.

    It gets a session of its own, so that Ctrl-C in the terminal reaches this process only, which then stops it in good
    order. On Linux the kernel ends it (SIGTERM) when this process dies, even by `kill -9`. Call it in the main thread:
    to the kernel the thread that starts a process is its parent.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with(os.getpid()) if sys.platform == "linux" else None,
        )


def stop(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    """Ask a child to end, and kill it after `seconds`."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def end_with_worker() -> None:
    """In the process of a flow run: have the kernel end it (SIGTERM) when the worker that started it dies.

    Without it a run would go on unseen by the worker that takes the place of a killed one: nobody could cancel it. Does
    nothing in a run that no worker started.
    """
    if sys.platform == "linux" and "PREFECT__FLOW_RUN_ID" in os.environ:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def adopt_orphans() -> None:
    """Become the parent of every process below this one whose own parent dies."""
    if sys.platform == "linux":
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_children(parent: int, seconds: float, *, besides: Collection[int] = (), wait: float = 0.0) -> bool:
    """End the children of a process, all but those in `besides`, until none is left; say whether there were any.

    Each child gets SIGTERM after `wait` seconds, once: a second one would disturb its shutdown. It is killed after
    `seconds`. Children that a living parent starts later are left to it.
    """
    begin = time.monotonic()
    asked: set[int] = set()
    found = False
    while left := [child for child in _children(parent) if child.pid not in besides]:
        found = True
        passed = time.monotonic() - begin
        if passed > seconds + _KILLED_SECONDS:
            break
        for child in left:
            with suppress(psutil.NoSuchProcess):
                if passed > seconds:
                    child.kill()
                elif passed >= wait and child.pid not in asked:
                    child.terminate()
                    asked.add(child.pid)
            _reap(child.pid)
        time.sleep(0.05)
    return found


def _children(parent: int) -> list[psutil.Process]:
    """Return the running children of a process; of this process also those that it has to reap."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(parent).children():
            with suppress(psutil.NoSuchProcess):
                if parent == os.getpid() or child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child)
    return found


def _reap(pid: int) -> None:
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _end_with(parent: int) -> Callable[[], None]:
    def prepare() -> None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the kernel was told
            os._exit(1)

    return prepare


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value)
