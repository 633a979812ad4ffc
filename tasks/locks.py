"""Operating-system locks for Prefect's transactions, and for GPUs.

Prefect's own `FileSystemLockManager` never lets go of a lock whose holder was killed; the kernel frees these.
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
    """Prefect's lock protocol on `homegrown.util.locks`, with the locks' files in one folder."""

    _holders: dict[Path, str] = {}  # of this process; shared by all instances, since Prefect copies them
    _guard = threading.Lock()

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _file(self, key: str) -> Path:
        return self._folder / f"prefect.{hashlib.sha256(key.encode()).hexdigest()[:24]}"

    def acquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        """Take the lock of `key`, waiting at most `acquire_timeout` seconds; it is held until released or death."""
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
        """Take the lock of `key` in a thread, so that the event loop goes on."""
        take = functools.partial(self.acquire_lock, key, holder, acquire_timeout, hold_timeout)
        return await anyio.to_thread.run_sync(take)

    def release_lock(self, key: str, holder: str) -> None:
        """Free the lock; ValueError when `holder` does not hold it."""
        if not self.is_lock_holder(key, holder):
            raise ValueError(f"{holder} does not hold the lock of {key}")
        with self._guard:
            del self._holders[self._file(key)]
        locks.release(self._file(key))

    def is_locked(self, key: str) -> bool:
        """Say whether anybody holds the lock."""
        return not locks.is_free(self._file(key))

    def is_lock_holder(self, key: str, holder: str) -> bool:
        """Say whether `holder`, in this process, holds the lock."""
        with self._guard:
            return self._holders.get(self._file(key)) == holder

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Wait until nobody holds the lock, at most `timeout` seconds; say whether that came."""
        free = locks.acquire(self._file(key), timeout)
        if free:
            locks.release(self._file(key))
        return free

    async def await_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Wait for the lock in a thread."""
        return await anyio.to_thread.run_sync(self.wait_for_lock, key, timeout)


@contextmanager
def computing_on(device: str, processes: int) -> Iterator[None]:
    """Hold the GPUs of `processes` processes for the block, one each; nothing to hold on a CPU.

    Another run on this machine, in any project folder, waits. GPUs are taken in one order, so that two runs which want
    several never wait for each other.
    """
    names = devices.gpu_names(processes) if device == "cuda" else []
    with ExitStack() as held:
        for name in sorted(names):
            held.enter_context(locks.exclusive(Path(tempfile.gettempdir()) / f"homegrown-gpu-{name}.lock"))
        yield
