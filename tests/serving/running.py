"""A server as `homegrown serve` starts it, in a thread of the tests' own process."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from homegrown.serving.service import Order
from homegrown.util.guard import listen


@contextmanager
def running(app: ASGIApp) -> Iterator[str]:
    """Serve an application on loopback; yields its address."""
    listening = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    # At once, whatever is still open; how `homegrown serve` ends is seen in test_serve.
    server.should_exit = server.force_exit = True
    thread.join()
    listening.close()


def soon(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class Silent:
    """An engine that takes orders and writes nothing until it is told to."""

    name = "silent"
    rows = 2
    context = 64

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.cancelled = 0

    def start(self, order: Order) -> Callable[[], None]:
        self.orders.append(order)

        def cancel() -> None:
            self.cancelled += 1

        return cancel

    def running(self) -> int:
        return min(self.rows, len(self.orders) - self.cancelled)

    def close(self) -> None:
        pass
