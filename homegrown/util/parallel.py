"""Shards in parallel on a `concurrent.futures` executor, with bounded work in flight and ordered results."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, InvalidStateError, ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cpu_count() -> int:
    """Return the number of processors available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spin_less() -> None:
    """Make OpenMP's waiting threads yield soon; call it before importing PyTorch, which reads the variable once.

    As soon as another program runs, a spinning thread takes the processor from the thread it waits for. Beside one
    busy process on 2 cores, `tiny` trained at less than 1,500 tokens per second with a spin count of 20,000, and at
    5,100 with 1,000.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def die_with_parent() -> None:
    """Exit this worker process as soon as its parent process dies.

    A pool's worker owns both ends of its queues, so after a `kill -9` of its parent it would wait forever.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="die-with-parent", daemon=True).start()


def _begin() -> None:
    """Prepare a worker process: Ctrl-C in a terminal reaches it too and ends it without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    die_with_parent()


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the end of the block; processes started within get Ctrl-C when they are ready.

    A process whose start is interrupted reads half of what it needs and prints a traceback. That the signal is blocked
    in this thread is what the new process inherits; another thread still gets it, and Python tells the main one.
    """
    noted: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if hasattr(signal, "pthread_sigmask") else None
    numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
    before = {number: signal.signal(number, lambda number, _: noted.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if blocked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if noted:
            signal.raise_signal(noted[0])


@cache
def _ignore_cancelled_and_killed() -> None:
    """Let a pool's thread fail in silence when its workers end while its work is cancelled, as after Ctrl-C.

    Before Python 3.12 it sets the end of the workers as the error of cancelled futures too, and prints a traceback of
    `InvalidStateError`; nobody waits for it.
    """
    before = threading.excepthook

    def report(failure: threading.ExceptHookArgs) -> None:
        if not issubclass(failure.exc_type, InvalidStateError):
            before(failure)

    threading.excepthook = report


class _Process(SpawnProcess):
    """A spawned process that does not import the main module, which defines none of our functions.

    The main module of a deployed run is Prefect's engine, whose import takes most of a second. At its end it exits as a
    forked process does, without the interpreter's clean-up, which takes a quarter of a second of every worker.
    """

    def _bootstrap(self, parent_sentinel: int | None = None) -> int:
        code: int = super()._bootstrap(parent_sentinel)  # type: ignore[misc]  # typeshed leaves it out
        os._exit(code)

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            return SpawnProcess._Popen(process_obj)
        finally:
            sys.modules["__main__"] = main


class _Spawn(SpawnContext):
    Process = _Process


class _Pool(ProcessPoolExecutor):
    """A pool that lets no signal interrupt the start of a process, which happens when work is submitted."""

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """See `ProcessPoolExecutor`."""
        with _interrupts_wait():
            return super().submit(fn, *args, **kwargs)


@contextmanager
def process_pool(workers: int) -> Iterator[Executor]:
    """Yield a pool of `workers` processes (0: one per processor) that never outlives this process.

    Processes are spawned, not forked: a fork would inherit locks and threads of numba, torch and Arrow.
    """
    _ignore_cancelled_and_killed()
    with _Pool(workers or cpu_count(), mp_context=_Spawn(), initializer=_begin) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def in_flight(executor: Executor) -> int:
    """Return the number of items to submit at once: two per worker, so that none waits for the next one."""
    # Both pools of concurrent.futures keep their size in this attribute; no public one exists.
    return max(8, 2 * getattr(executor, "_max_workers", 1))


def map_ordered(executor: Executor, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield `function(item)` for each item, in the order of `items`, with at most `in_flight` of them submitted.

    Unlike `Executor.map`, it reads `items` lazily, so that a huge or endless source stays out of memory.
    """
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(executor.submit(function, item))
            if len(waiting) >= in_flight(executor):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
