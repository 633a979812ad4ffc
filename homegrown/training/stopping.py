"""Requests to stop: a worker finishes its step first, so that it can write a checkpoint."""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import NoReturn

from homegrown.util import locks

GRACE_SECONDS = 10.0
"""Time to finish a step and write a checkpoint; after it, the run resumes from the previous checkpoint."""


def end_process() -> NoReturn:
    """Exit with success at once, files flushed: clearing up memory may hang."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


class Stop:
    """A request that training stops after the current step."""

    def __init__(self) -> None:
        self._requested = threading.Event()

    @property
    def requested(self) -> bool:
        """Whether a stop was requested."""
        return self._requested.is_set()

    def request(self) -> None:
        """Request a stop; the process exits after `GRACE_SECONDS` at the latest.

        Its exit code is that of success, because the launcher should not restart it.
        """
        if not self._requested.is_set():
            self._requested.set()
            end = threading.Timer(GRACE_SECONDS, os._exit, [0])
            end.daemon = True
            end.start()

    def on_signals(self) -> None:
        """Request a stop at SIGTERM or SIGINT. Call it in the main thread.

        A separate thread reads the signals from a pipe: a handler would have to wait for the main thread, which may be
        waiting for a dead worker.
        """
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)

        def wait() -> None:
            os.read(reading, 1)
            self.request()

        threading.Thread(target=wait, name="stop-on-signals", daemon=True).start()

    def without_parent(self, lock: Path) -> None:
        """Request a stop as soon as the launching process releases `lock`: it has exited or given up this run."""

        def wait() -> None:
            locks.acquire(lock)
            self.request()

        threading.Thread(target=wait, name="stop-without-parent", daemon=True).start()

    def die_without(self, lock: Path) -> None:
        """Exit as soon as the launching process of a machine that joined releases `lock`.

        The workers of the other machines then fail too, restart, and wait for this machine to come back.
        """

        def wait() -> None:
            locks.acquire(lock)
            os._exit(1)

        threading.Thread(target=wait, name="die-without-parent", daemon=True).start()
