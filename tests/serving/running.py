"""A server as `homegrown serve` starts it, in a thread of the tests' process, and an engine that a test controls."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from homegrown.inference.engine import Request
from homegrown.serving.service import Deliver
from homegrown.util.guard import listen


@contextmanager
def running(app: ASGIApp) -> Iterator[str]:
    """Serve an application on loopback; yields its address."""
    listening = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", log_config=None, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    # At once, with open connections; test_serve has the orderly shutdown.
    server.should_exit = server.force_exit = True
    thread.join()
    listening.close()


def soon(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class Silent:
    """An engine that takes requests and generates only what a test delivers."""

    name = "silent"
    rows = 2
    context = 64

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.deliveries: list[Deliver] = []
        self.cancelled = 0

    def submit(self, request: Request, deliver: Deliver) -> Callable[[], None]:
        self.requests.append(request)
        self.deliveries.append(deliver)

        def cancel() -> None:
            self.cancelled += 1

        return cancel

    def running(self) -> int:
        return min(self.rows, len(self.requests) - self.cancelled)

    def close(self) -> None:
        pass
