"""The server's life: it listens while models load, and ends at once and in order when it is told to."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from homegrown.serving.page import later
from homegrown.serving.service import Service

_PATIENCE = 3
"""Seconds that connections which do not end by themselves have at the end, such as those of a page."""

_LOADING = ("models", later.THREAD)
"""Names of the threads that load what the server serves."""


class Server(uvicorn.Server):
    """Serves an application over a service until Ctrl-C or SIGTERM."""

    def __init__(self, app: ASGIApp, service: Service):
        super().__init__(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_PATIENCE, lifespan="on"))
        self._service, self._error = service, None

    _error: BaseException | None
    _answering: Callable[[], None]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End what is being written, so that no client waits for its end, and then the server."""
        self._service.stop()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the connections and then the application, whose parts may not hold up the end for ever."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(super().shutdown(sockets), 2 * _PATIENCE)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals as long as the server runs; uvicorn would raise them once more afterwards."""
        kept = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, and say so."""
        await super().startup(sockets)
        self._answering()

    def serve_while(self, load: Callable[[], None], listening: socket.socket, answering: Callable[[], None]) -> None:
        """Serve, and `load` the models meanwhile in a thread; what that raises ends the server and is raised here.

        `answering` is called once requests are answered.
        """
        self._answering = answering

        def loading() -> None:
            try:
                load()
            except BaseException as error:
                self._error = error
                self.should_exit = True

        threading.Thread(target=loading, name="models", daemon=True).start()
        with listening:
            self.run([listening])
        self._service.close()
        if self._error:
            raise self._error
        if any(thread.name in _LOADING for thread in threading.enumerate()):
            # It cannot be interrupted: Python would wait for it, or abort while it is in a library's C++.
            sys.stdout.flush()
            os._exit(0)
