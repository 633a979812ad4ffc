"""The server: OpenAI's routes over the service, `/health`, `/metrics`, and the page where it is installed."""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from homegrown.serving.admission import Counted, KeyAsked, ShortBodies
from homegrown.serving.answers import Choice, Form, error_object, model_object
from homegrown.serving.completion import Completion, Delta, Reason, Refused
from homegrown.serving.page.later import LatePage
from homegrown.serving.page.policy import PagePolicy
from homegrown.serving.service import Service, Writing
from homegrown.serving.wire import ChatRequest, TextRequest
from homegrown.util.errors import UserError
from homegrown.util.guard import Policy, SameOrigin
from homegrown.util.seeds import derive

_T = TypeVar("_T")

_REFUSALS: dict[Reason, tuple[int, str, str | None]] = {
    "unknown_model": (404, "invalid_request_error", "model_not_found"),
    "invalid": (400, "invalid_request_error", None),
    "too_long": (400, "invalid_request_error", "context_length_exceeded"),
    "busy": (429, "rate_limit_error", "rate_limit_exceeded"),
    "loading": (503, "server_error", "model_loading"),
    "failed": (503, "server_error", "model_failed"),
    "stopping": (503, "server_error", "server_stopping"),
}
"""The status, type and code of each reason."""

_RETRY = {"Retry-After": "1"}


def application(service: Service, *, key: str | None, hosts: Sequence[str]) -> FastAPI:
    """Return the application, which answers requests to `hosts` only, and with a `key` only those that have it."""
    app = FastAPI(title="homegrown", docs_url=None, redoc_url=None)
    _add_errors(app)
    _add_routes(app, service)
    # The last one added is the first that a request comes to.
    app.add_middleware(ShortBodies)
    app.add_middleware(KeyAsked, key=key)
    app.add_middleware(Counted, metrics=service.metrics)
    app.add_middleware(SameOrigin)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.add_middleware(Policy)
    _add_page(app, service)
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """List the models."""
        return {"object": "list", "data": [model_object(service.model(name)) for name in service.names]}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        """Say what is known of a model."""
        return model_object(service.model(name))

    @app.post("/v1/completions")
    async def completions(body: TextRequest, request: Request) -> Response:
        """Continue texts."""
        asked: list[Completion] = []
        echoes: list[str] = []
        for prompt in body.prompts:
            for _ in range(body.n):
                asked.append(body.completion(prompt, _seed(body.seed, len(asked))))
                echoes.append(_as_text(service, body.model, prompt) if body.echo else "")
        form = Form(body.model, chat=False, logprobs=body.logprobs is not None)
        return await _answer(service, request, body, form, asked, echoes)

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        asked = [body.completion(_seed(body.seed, index)) for index in range(body.n)]
        form = Form(body.model, chat=True, logprobs=bool(body.logprobs))
        return await _answer(service, request, body, form, asked, [""] * body.n)

    @app.get("/health")
    async def health() -> Response:
        """Say whether every model answers."""
        state = service.state
        failed = any(said not in ("ready", "loading") for said in state.values())
        status = "failed" if failed else "loading" if "loading" in state.values() else "ok"
        return JSONResponse({"status": status, "models": state}, 200 if status == "ok" else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Return Prometheus' figures."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _seed(seed: int | None, index: int) -> int | None:
    return None if seed is None else derive(seed, "choice", index)


def _as_text(service: Service, name: str, prompt: str | list[int]) -> str:
    return prompt if isinstance(prompt, str) else service.text(name, prompt)


async def _answer(
    service: Service,
    request: Request,
    body: TextRequest | ChatRequest,
    form: Form,
    asked: Sequence[Completion],
    echoes: Sequence[str],
) -> Response:
    """Begin what is asked for, all of it or nothing, and return it as it comes or when it is whole."""
    with ExitStack() as stack:
        writings = [stack.enter_context(service.begin(body.model, one)) for one in asked]
        prompt_tokens = sum(one.prompt_tokens for one in writings[:: body.n])
        choices = [Choice(index, echo) for index, echo in enumerate(echoes)]
        if body.stream:
            events = _events(form, choices, writings, prompt_tokens if body.include_usage else None)
            return _EventStream(events, stack.pop_all())
        await _until_gone(request.receive, _collect(choices, writings))
        return JSONResponse(form.whole(choices, prompt_tokens))


async def _collect(choices: Sequence[Choice], writings: Sequence[Writing]) -> None:
    async for index, delta in _merged(writings):
        choices[index].add(delta)


async def _events(
    form: Form, choices: Sequence[Choice], writings: Sequence[Writing], prompt_tokens: int | None
) -> AsyncIterator[bytes]:
    """Yield the events of a stream; with `prompt_tokens`, the number of all tokens at its end."""
    try:
        for choice in choices:
            if opening := form.opening(choice):
                yield _event(opening)
        async for index, delta in _merged(writings):
            choices[index].add(delta)
            if piece := form.piece(choices[index], delta):
                yield _event(piece)
        if prompt_tokens is not None:
            yield _event(form.last(choices, prompt_tokens))
    except Exception as error:
        # The status is sent already; OpenAI's clients raise what such an event says.
        yield _event(_error(error)[1])
    yield b"data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def _merged(writings: Sequence[Writing]) -> AsyncIterator[tuple[int, Delta]]:
    """Yield the deltas of all as they come, each with the place of its own."""
    if len(writings) == 1:
        # As nearly every request: a task for each token would be a tenth of the server's own work.
        async for delta in writings[0]:
            yield 0, delta
        return
    pending = {asyncio.ensure_future(anext(writing)): index for index, writing in enumerate(writings)}
    try:
        while pending:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                index, delta = pending.pop(one), one.result()
                yield index, delta
                if delta.finish is None:
                    pending[asyncio.ensure_future(anext(writings[index]))] = index
    finally:
        for one in pending:
            one.cancel()


async def _until_gone(receive: Receive, work: Coroutine[Any, Any, _T]) -> None:
    """Do some work, or as much of it as there is time for before the client goes away."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        working.cancel()
        gone.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _EventStream(StreamingResponse):
    """Server-sent events, which end what is being written when the client goes away."""

    def __init__(self, events: AsyncIterator[bytes], stack: ExitStack):
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._stack:
            await _until_gone(receive, self.stream_response(send))


def _add_errors(app: FastAPI) -> None:
    async def answer(request: Request, error: Exception) -> Response:
        status, body, headers = _error(error)
        return JSONResponse(body, status, headers)

    for kind in (UserError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, answer)


def _error(error: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Return the status, the body in OpenAI's shape, and headers."""
    if isinstance(error, Refused):
        status, kind, code = _REFUSALS[error.reason]
        return status, error_object(str(error), kind, error.setting, code), _RETRY if status in (429, 503) else {}
    if isinstance(error, UserError):
        return 400, error_object(str(error), "invalid_request_error", None, None), {}
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            sentence = f"The body is no JSON: {first['ctx']['error']}, at character {first['loc'][-1]}."
            return 400, error_object(sentence, "invalid_request_error", None, None), {}
        setting = ".".join(str(part) for part in first["loc"][1:]) or None
        sentence = f"{setting or 'The body'}: {first['msg']}."
        return 400, error_object(sentence, "invalid_request_error", setting, None), {}
    if isinstance(error, HTTPException):
        return error.status_code, error_object(str(error.detail), "invalid_request_error", None, None), {}
    return 500, error_object("The server has failed; its log says how.", "server_error", None, None), {}


def _add_page(app: FastAPI, service: Service) -> None:
    """Mount the page at `/`, or say how to have one; routes that are there already go first."""
    if find_spec("gradio") is None:

        @app.get("/", include_in_schema=False)
        async def no_page() -> HTMLResponse:
            return HTMLResponse(_NO_PAGE)

        return

    def make() -> FastAPI:
        from homegrown.serving.page import app

        return app.application(service)

    late = LatePage(make, PagePolicy)
    app.router.lifespan_context = late.lifespan
    app.mount("/", late)


_NO_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>homegrown</title></head><body>
<p>This server speaks OpenAI's wire format at <code>/v1</code>, described in
<a href="/openapi.json">/openapi.json</a>. For a page to talk to the model on:
<code>pip install 'homegrown[page]'</code>, then start the server again.</p>
</body></html>
"""
