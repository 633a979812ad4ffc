"""The server process: it answers while models load, and shuts down at once on a signal."""

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

from homegrown.serving.service import Service

_GRACE = 3
"""Seconds for open connections at shutdown, such as those of a page."""

_LOADING = "models"
"""Name of the thread that loads models."""


class Server(uvicorn.Server):
    """Serves an application until Ctrl-C or SIGTERM."""

    def __init__(self, app: ASGIApp, service: Service):
        # Without uvicorn's own logging, whose set-up closes the handlers of other libraries.
        config = uvicorn.Config(
            app, log_level="warning", log_config=None, timeout_graceful_shutdown=_GRACE, lifespan="on"
        )
        super().__init__(config)
        self._service, self._error = service, None

    _error: BaseException | None
    _answering: Callable[[], None]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End all requests, so that no client waits for them, and then the server."""
        self._service.stop()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the connections and then the application, with a time limit."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(super().shutdown(sockets), 2 * _GRACE)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while the server runs; uvicorn would raise them again afterwards."""
        previous = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to answer, and report it."""
        await super().startup(sockets)
        self._answering()

    def serve_while(self, load: Callable[[], None], listening: socket.socket, answering: Callable[[], None]) -> None:
        """Serve, and run `load` in a thread; an exception of it ends the server and is raised here.

        `answering` is called when the server answers requests.
        """
        self._answering = answering

        def loading() -> None:
            try:
                load()
            except BaseException as error:
                self._error = error
                self.should_exit = True

        threading.Thread(target=loading, name=_LOADING, daemon=True).start()
        with listening:
            self.run([listening])
        self._service.close()
        if self._error:
            raise self._error
        if any(thread.name == _LOADING for thread in threading.enumerate()):
            # Such a thread cannot be interrupted: Python would wait for it, or abort inside a library's C++.
            sys.stdout.flush()
            os._exit(0)
