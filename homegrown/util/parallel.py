"""Shards side by side on a `concurrent.futures` executor, with bounded work in flight and ordered results."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cpu_count() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spin_less() -> None:
    """Have OpenMP's waiting threads give way soon; call it before PyTorch is imported, which reads this once.

    A thread that waits in a spin takes the processor from the very thread it waits for as soon as anything else runs on
    the machine. Beside one busy process on 2 cores, `tiny` trained at less than 1,500 tokens a second with 20,000
    turns of the spin, and at 5,100 with 1,000.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def die_with_parent() -> None:
    """Exit this worker process at once when the process that started it is gone.

    A pool's worker holds both ends of its queues, so after a `kill -9` of its parent it would wait for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="die-with-parent", daemon=True).start()


def _begin() -> None:
    """Prepare a worker process: Ctrl-C in a terminal reaches it too, and ends it without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    die_with_parent()


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Have a Ctrl-C wait for the end of the block, and in processes started within until they ask for it themselves."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Process(SpawnProcess):
    """A spawned process that does not import the main module, for functions which that might define; ours never do.

    The main module of a deployed run is Prefect's engine, which takes most of a second to import.
    """

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


@contextmanager
def process_pool(workers: int) -> Iterator[Executor]:
    """Yield a pool of `workers` processes (0: one for each processor) that never outlives this process.

    Processes are spawned, not forked: a fork would inherit locks and threads of numba, torch and Arrow.
    """
    with ProcessPoolExecutor(workers or cpu_count(), mp_context=_Spawn(), initializer=_begin) as pool:
        try:
            with _interrupts_held_back():
                pool.submit(int)  # has the processes started
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def in_flight(executor: Executor) -> int:
    """Return how many items to have submitted at once: two for each worker, so that none waits for its next one."""
    # Both pools of concurrent.futures keep their size under this name, and have no public one.
    return max(8, 2 * getattr(executor, "_max_workers", 1))


def map_ordered(executor: Executor, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield `function(item)` for each item, in the order of `items`, with at most `in_flight` of them submitted.

    Unlike `Executor.map`, `items` is read lazily, so that an endless or huge source stays out of memory.
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
