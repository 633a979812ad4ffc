"""The page while the server answers already: Gradio takes seconds to import, and nothing else has to wait for it."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, InvalidStateError

from fastapi import FastAPI
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Receive, Scope, Send

THREAD = "page"
"""The name of the thread that makes it."""


class LatePage:
    """An application that is made in a thread once the server runs; until it is there, a page that reloads itself."""

    def __init__(self, make: Callable[[], FastAPI], around: Callable[[ASGIApp], ASGIApp]):
        """Answer with what `make` returns; every request goes through what `around` makes of it."""
        self._make, self._around = make, around
        self._answering = around(_getting_ready)
        self._error: Exception | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises what kept the application from being made."""
        if self._error:
            raise self._error
        await self._answering(scope, receive, send)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Make the application, begin and end it, while the application lives that this is a part of."""
        made: Future[FastAPI] = Future()
        # No thread of a pool, which the end of the loop would wait for; and no daemon, which Python's end would abort.
        threading.Thread(target=self._make_into, args=(made,), name=THREAD).start()
        ended = asyncio.Event()
        living = asyncio.ensure_future(self._live(made, ended))
        yield
        made.cancel()  # where it is not made yet
        ended.set()
        await asyncio.gather(living, return_exceptions=True)

    async def _live(self, made: Future[FastAPI], ended: asyncio.Event) -> None:
        try:
            application = await asyncio.wrap_future(made)
            async with application.router.lifespan_context(application):
                self._answering = self._around(application)
                await ended.wait()
        except Exception as error:
            self._error = error

    def _make_into(self, made: Future[FastAPI]) -> None:
        # It is cancelled where the server has ended meanwhile.
        with contextlib.suppress(InvalidStateError):
            try:
                made.set_result(self._make())
            except Exception as error:
                made.set_exception(error)


async def _getting_ready(scope: Scope, receive: Receive, send: Send) -> None:
    await HTMLResponse(_GETTING_READY, 503, {"Retry-After": "1", "Cache-Control": "no-store"})(scope, receive, send)


_GETTING_READY = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="1"><title>Homegrown</title></head><body>
<p>The page is getting ready, and comes by itself. Programs get answers already, at <code>/v1</code>.</p>
</body></html>
"""
