"""The page in the background: Gradio takes seconds to import, and the API does not wait for it."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, InvalidStateError

from fastapi import FastAPI
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Receive, Scope, Send

THREAD = "page"
"""Name of the thread that creates the page."""


class DeferredPage:
    """An application that is created in a thread; until then, a placeholder that reloads itself."""

    def __init__(self, make: Callable[[], FastAPI], around: Callable[[ASGIApp], ASGIApp]):
        """Serve the application that `make` returns, inside the middleware `around`."""
        self._make, self._around = make, around
        self._answering = around(_placeholder)
        self._error: Exception | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises the exception of `make`, if it failed."""
        if self._error:
            raise self._error
        await self._answering(scope, receive, send)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Create, start and end the application during the lifespan of the outer one."""
        made: Future[FastAPI] = Future()
        # Not in a pool, which the end of the loop would wait for; not a daemon, which the end of Python would abort.
        threading.Thread(target=self._make_into, args=(made,), name=THREAD).start()
        ended = asyncio.Event()
        living = asyncio.ensure_future(self._live(made, ended))
        yield
        made.cancel()  # if it is not created yet
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
        # The future is cancelled if the server has ended meanwhile.
        with contextlib.suppress(InvalidStateError):
            try:
                made.set_result(self._make())
            except Exception as error:
                made.set_exception(error)


async def _placeholder(scope: Scope, receive: Receive, send: Send) -> None:
    await HTMLResponse(_PLACEHOLDER, 503, {"Retry-After": "1", "Cache-Control": "no-store"})(scope, receive, send)


_PLACEHOLDER = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="1"><title>Homegrown</title></head><body>
<p>The page is loading and will appear by itself. The API at <code>/v1</code> already answers.</p>
</body></html>
"""
