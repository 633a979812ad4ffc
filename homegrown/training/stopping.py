"""Stopping early but orderly: a worker that is told to end finishes its step, so that a checkpoint can be written."""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import NoReturn

from homegrown.util import locks

GRACE_SECONDS = 10.0
"""Time to finish a step and write a checkpoint; after it, the run goes on from the checkpoint before."""


def end_process() -> NoReturn:
    """End this process as a success at once, its files written: nothing in memory is cleared away, which may hang."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


class Stop:
    """The wish that training should end after this step."""

    def __init__(self) -> None:
        self._wished = threading.Event()

    @property
    def wished(self) -> bool:
        """Whether somebody wishes training to end."""
        return self._wished.is_set()

    def wish(self) -> None:
        """Ask training to end; the process exits after `GRACE_SECONDS` at the latest.

        The exit code is that of success, because there is nothing that the launcher should try again.
        """
        if not self._wished.is_set():
            self._wished.set()
            end = threading.Timer(GRACE_SECONDS, os._exit, [0])
            end.daemon = True
            end.start()

    def on_signals(self) -> None:
        """Wish it at SIGTERM or SIGINT. Call it in the main thread.

        The signals are read from a pipe by a thread of their own, because a handler would have to wait for the main
        thread, which may be waiting for a worker that is dead.
        """
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)

        def wait() -> None:
            os.read(reading, 1)
            self.wish()

        threading.Thread(target=wait, name="stop-on-signals", daemon=True).start()

    def without_parent(self, lock: Path) -> None:
        """Wish it as soon as the lock that the launching process holds is free.

        So it is when that process ends, however it does, and when it gives up this run.
        """

        def wait() -> None:
            locks.acquire(lock)
            self.wish()

        threading.Thread(target=wait, name="stop-without-parent", daemon=True).start()
