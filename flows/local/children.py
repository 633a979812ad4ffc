"""Child processes that end with this one, however it ends."""

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

KILLED = "Its process was killed"
"""The start of the message of a run that was found dead; `homegrown up` starts it again if it has a deployment."""
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_KILLED_SECONDS = 5.0


def start(arguments: Sequence[str], log: Path, *, tied: bool = True) -> "subprocess.Popen[bytes]":
    """Start `python arguments…` with its output appended to the file `log`.

    The child gets its own session, so that Ctrl-C reaches only this process, which then stops the child. On Linux the
    kernel ends it (SIGTERM) when this process dies, even by `kill -9`, unless it is not `tied`. Call this in the main
    thread, because the kernel regards the starting thread as the parent. SIGINT, which Prefect's worker sends itself to
    stop, has its default effect again: what starts in the background of a shell ignores it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_prepare(os.getpid() if tied and sys.platform == "linux" else None),
        )


def stop(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    """Send SIGTERM to a child, which may stand still by SIGSTOP, and kill it after `seconds`."""
    process.terminate()
    process.send_signal(signal.SIGCONT)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def end_with_worker() -> None:
    """Make the kernel end (SIGTERM) this flow run's process when its worker dies.

    Otherwise the run would continue unknown to the next worker, and could not be cancelled. A run without a worker is
    not affected.
    """
    if sys.platform == "linux" and "PREFECT__FLOW_RUN_ID" in os.environ:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def adopt_orphans() -> None:
    """Become the parent of all descendants whose own parent dies."""
    if sys.platform == "linux":
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_children(parent: int, seconds: float, *, besides: Collection[int] = (), wait: float = 0.0) -> bool:
    """End all children of a process except those in `besides`; return whether there were any.

    Each child gets SIGTERM after `wait` seconds, once: a second one would disturb its shutdown. It is killed after
    `seconds`. Children that a living parent starts later are left to it.
    """
    begin = time.monotonic()
    terminated: set[int] = set()
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
                elif passed >= wait and child.pid not in terminated:
                    child.terminate()
                    terminated.add(child.pid)
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


def _prepare(parent: int | None) -> Callable[[], None]:
    """Return what a child does before it executes its program; with `parent`, it is tied to that process."""

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if parent is not None:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # the parent died before the prctl call
                os._exit(1)

    return prepare


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value)
