"""Operating-system locks for Prefect's transactions and for GPUs.

The kernel frees them when their holder dies; Prefect's own `FileSystemLockManager` keeps the lock of a killed holder.
"""

import functools
import hashlib
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio.to_thread
from prefect.locking.protocol import LockManager

from homegrown.util import devices, locks


class StageLocks(LockManager):
    """Prefect's lock protocol with `homegrown.util.locks`; the lock files are in one folder."""

    _holders: dict[Path, str] = {}  # of this process; shared by all instances because Prefect copies them
    _guard = threading.Lock()

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _file(self, key: str) -> Path:
        return self._folder / f"prefect.{hashlib.sha256(key.encode()).hexdigest()[:24]}"

    def acquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        """Take the lock of `key` within `acquire_timeout` seconds; its release or the holder's death frees it."""
        if self.is_lock_holder(key, holder):
            return True
        taken = locks.acquire(self._file(key), acquire_timeout)
        if taken:
            with self._guard:
                self._holders[self._file(key)] = holder
        return taken

    async def aacquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        """Take the lock of `key` in a thread, without blocking the event loop."""
        take = functools.partial(self.acquire_lock, key, holder, acquire_timeout, hold_timeout)
        return await anyio.to_thread.run_sync(take)

    def release_lock(self, key: str, holder: str) -> None:
        """Release the lock; raise ValueError if `holder` does not have it."""
        if not self.is_lock_holder(key, holder):
            raise ValueError(f"{holder} does not have the lock of {key}")
        with self._guard:
            del self._holders[self._file(key)]
        locks.release(self._file(key))

    def is_locked(self, key: str) -> bool:
        """Return whether the lock is taken."""
        return not locks.is_free(self._file(key))

    def is_lock_holder(self, key: str, holder: str) -> bool:
        """Return whether `holder`, in this process, has the lock."""
        with self._guard:
            return self._holders.get(self._file(key)) == holder

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Wait at most `timeout` seconds for the lock to be free; return whether it is."""
        free = locks.acquire(self._file(key), timeout)
        if free:
            locks.release(self._file(key))
        return free

    async def await_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Wait for the lock in a thread."""
        return await anyio.to_thread.run_sync(self.wait_for_lock, key, timeout)


@contextmanager
def computing_on(device: str, processes: int) -> Iterator[None]:
    """Lock the GPUs of `processes` processes for the block, one each; a CPU needs no lock.

    Other runs on this machine, of any user and in any project folder, wait. GPUs are locked in one order, so that two
    runs with several GPUs never deadlock.
    """
    names = [] if device == "cpu" else devices.names(device, processes)
    with ExitStack() as stack:
        for name in sorted(names):
            file = Path(tempfile.gettempdir()) / f"homegrown-gpu-{name}.lock"
            locks.make_public(file)
            stack.enter_context(locks.exclusive(file))
        yield
