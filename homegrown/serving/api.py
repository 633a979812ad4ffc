"""The server: OpenAI's routes over the service, `/health`, `/metrics`, and the page."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from time import perf_counter_ns
from typing import Any, TypeVar

import fastapi
from fastapi import FastAPI, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import StreamingResponse
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from homegrown.inference.engine import Request
from homegrown.inference.grammar import Grammar
from homegrown.serving import ollama
from homegrown.serving.admission import AnswerCount, AnyTypeIsJson, ApiKeyCheck, BodyLimit, refusal
from homegrown.serving.fields import invalid
from homegrown.serving.messages import conversation
from homegrown.serving.page import routes as page
from homegrown.serving.refusal import Reason, Refused
from homegrown.serving.requests import (
    ChatCompletionBody,
    CompletionBody,
    DetokenizeBody,
    EmbeddingsBody,
    TokenizeBody,
)
from homegrown.serving.responses import (
    Choice,
    Objects,
    ResponseObjects,
    embeddings_object,
    error_object,
    error_response,
    model_object,
)
from homegrown.serving.responses_api import FIELDS, ResponsesBody, ResponsesObjects
from homegrown.serving.service import Outputs, Service
from homegrown.serving.tools import CallFormat, CallReader, call_format
from homegrown.store.artifacts import Store
from homegrown.tokenizer.chat import Chat
from homegrown.util.errors import UserError
from homegrown.util.guard import AllowedHosts, Policy, SameOrigin
from homegrown.util.seeds import derive

_log = logging.getLogger(__name__)

_T = TypeVar("_T")
_Route = TypeVar("_Route", bound=Callable[..., Any])

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

_TOO_DEEP = "The body is nested too deeply; send a flatter one."

_OLLAMA = "0.6.0"
"""The version of Ollama whose API this is; its clients compare it."""


def application(
    service: Service,
    *,
    key: str | None,
    hosts: Sequence[str],
    origins: Sequence[str] = (),
    store: Store | None = None,
) -> FastAPI:
    """Return the application; it answers requests to `hosts` only, and requires the `key` if there is one.

    Pages of another origin are refused, except those of `origins`, such as `https://llm.example.org` or `app://local`.
    The page keeps conversations and feedback in the `store`, if there is one.
    """
    app = FastAPI(title="homegrown", docs_url=None, redoc_url=None)
    _add_errors(app)
    _add_routes(app, service)
    # The last middleware is the first that a request reaches.
    app.add_middleware(AnyTypeIsJson)
    app.add_middleware(BodyLimit)
    app.add_middleware(ApiKeyCheck, key=key)
    app.add_middleware(AnswerCount, metrics=service.metrics)
    if origins:
        # The browser asks first, without the key, whether a page of another origin may send it.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["*"],
            allow_headers=["*"],
            allow_private_network=True,
        )
    app.add_middleware(SameOrigin, allowed=origins, refusal=refusal)
    app.add_middleware(AllowedHosts, hosts=hosts, advice="allow it with --allow-host {host}", refusal=refusal)
    app.add_middleware(Policy)
    app.include_router(page.router(service, store))
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    read = partial(_reader, app)

    @read("/v1/models")
    async def models() -> dict[str, Any]:
        """List the models."""
        data = [model_object(service.model(name), name) for name in (*service.names, *service.listed_aliases)]
        return {"object": "list", "data": data}

    @read("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """Return a model."""
        return model_object(service.model(name), name)

    @app.post("/v1/completions")
    async def completions(body: CompletionBody, http: fastapi.Request) -> Response:
        """Complete prompts."""
        grammar = await _grammar(service, body)
        requests: list[Request] = []
        choices: list[Choice] = []
        for prompt in body.prompts:
            prompt_ids = await _encoded(service, body.model, prompt)
            # Positions of the prompt's tokens are those in their own text, which a normalizer can change.
            echo = prompt if isinstance(prompt, str) and not body.scored else service.decode(body.model, prompt_ids)
            for _ in range(body.n):
                requests.append(body.request(prompt_ids, _seed(body.seed, len(requests)), grammar))
                choices.append(Choice(len(choices), echo if body.echo else "", prompt_ids if body.scored else ()))
        objects = ResponseObjects(service.model(body.model), chat=False, logprobs=body.logprobs is not None)
        return await _answer(service, http, body, objects, requests, choices)

    @app.post("/v1/chat/completions")
    async def chat(body: ChatCompletionBody, http: fastapi.Request) -> Response:
        """Answer a conversation."""
        objects = ResponseObjects(service.model(body.model), chat=True, logprobs=bool(body.logprobs))
        return await _answer_chat(service, http, body, objects)

    @app.post("/v1/responses")
    async def responses(body: ResponsesBody, http: fastapi.Request) -> Response:
        """Answer with text."""
        objects = ResponsesObjects(service.model(body.model), body)
        try:
            return await _answer_chat(service, http, body.translated(), objects)
        except Refused as error:
            raise Refused(str(error), error.reason, FIELDS.get(error.field or "", error.field)) from None

    @app.post("/v1/embeddings")
    async def embeddings(body: EmbeddingsBody) -> dict[str, Any]:
        """Return the mean-pooled hidden states of texts."""
        vectors, tokens = await _embed(service, body.model, body.prompts)
        base64 = body.encoding_format == "base64"
        return embeddings_object(service.model(body.model), vectors, tokens, base64=base64)

    @app.post("/tokenize")
    async def tokenize(body: TokenizeBody) -> dict[str, Any]:
        """Return the tokens of a prompt."""
        name = service.names[0] if body.model is None else body.model
        if body.messages is not None:
            ids = await asyncio.to_thread(service.encode, name, conversation(body.messages))
        else:
            ids = await asyncio.to_thread(service.tokens, name, body.prompt or "", special=body.add_special_tokens)
        return {"count": len(ids), "max_model_len": service.context(name), "tokens": ids}

    @app.post("/detokenize")
    async def detokenize(body: DetokenizeBody) -> dict[str, Any]:
        """Return the text of tokens, without special ones."""
        name = service.names[0] if body.model is None else body.model
        return {"prompt": service.decode(name, body.tokens)}

    @read("/health")
    async def health() -> Response:
        """Return whether all models are ready."""
        state = service.state
        failed = any(value not in ("ready", "loading") for value in state.values())
        status = "failed" if failed else "loading" if "loading" in state.values() else "ok"
        return JSONResponse({"status": status, "models": state}, 200 if status == "ok" else 503)

    @read("/metrics")
    async def metrics() -> Response:
        """Return the metrics for Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    _add_ollama(app, service)


def _reader(app: FastAPI, path: str) -> Callable[[_Route], _Route]:
    """Return a decorator that adds a route for GET and HEAD; only the first is in the schema."""

    def add(function: _Route) -> _Route:
        app.head(path, include_in_schema=False)(function)
        return app.get(path)(function)

    return add


def _add_ollama(app: FastAPI, service: Service) -> None:
    """Add the routes of Ollama's API."""
    read = partial(_reader, app)

    @read("/api/version")
    async def version() -> dict[str, str]:
        """Return the version of Ollama's API that this server follows."""
        return {"version": _OLLAMA}

    @read("/api/tags")
    async def tags() -> dict[str, Any]:
        """List the models."""
        names = (*service.names, *service.listed_aliases)
        return {"models": [ollama.tag(service.model(name), name) for name in names]}

    @read("/api/ps")
    async def ps() -> dict[str, Any]:
        """List the models that are loaded."""
        ready = [name for name, state in service.state.items() if state == "ready"]
        return {"models": [ollama.tag(service.model(name), name) for name in ready]}

    @app.post("/api/show")
    async def show(body: ollama.ShowBody) -> dict[str, Any]:
        """Describe a model."""
        name = body.shown
        form = service.chat(name)
        return ollama.shown(service.model(name), service.context(name), form.template, tools=_calls_tools(form))

    @app.post("/api/embed")
    async def embed(body: ollama.EmbedBody) -> dict[str, Any]:
        """Return the mean-pooled hidden states of texts."""
        start = perf_counter_ns()
        vectors, tokens = await _embed(service, body.model, body.texts, cut=body.truncate)
        return ollama.embedded(service.model(body.model), vectors, tokens, start)

    @app.post("/api/chat")
    async def chat(body: ollama.ChatBody, http: fastapi.Request) -> Response:
        """Answer a conversation."""
        model = service.model(body.model)
        if not body.messages:
            service.chat(body.model)  # raises Refused while it is loading
            return JSONResponse(ollama.empty(model, "chat", body.without_prompt))
        return await _answer_chat(service, http, body.translated(), ollama.OllamaObjects(model, "chat"))

    @app.post("/api/generate")
    async def generate(body: ollama.GenerateBody, http: fastapi.Request) -> Response:
        """Answer a prompt, or with `raw` continue it."""
        model = service.model(body.model)
        if not body.prompt:
            service.chat(body.model)  # raises Refused while it is loading
            return JSONResponse(ollama.empty(model, "generate", body.without_prompt))
        translated, objects = body.translated(), ollama.OllamaObjects(model, "generate")
        if isinstance(translated, ChatCompletionBody):
            return await _answer_chat(service, http, translated, objects)
        grammar = await _grammar(service, translated)
        prompt_ids = await _encoded(service, body.model, body.prompt)
        request = translated.request(prompt_ids, _seed(translated.seed, 0), grammar)
        requests = [replace(request, max_tokens=None) if body.unlimited else request]
        return await _answer(service, http, translated, objects, requests, [Choice(0)])


def _calls_tools(chat: Chat) -> bool:
    try:
        call_format(chat)
    except Refused:
        return False
    return True


async def _embed(
    service: Service, name: str, prompts: Sequence[str | list[int]], *, cut: bool = False
) -> tuple[list[list[float]], int]:
    """Return the embeddings of texts and the number of their tokens; with `cut`, of as many as fit the context."""
    encode = partial(service.encode, prompt_field="input")
    texts = [await asyncio.to_thread(encode, name, prompt) for prompt in prompts]
    if cut:
        texts = [one[: service.context(name)] for one in texts]
    vectors = []
    for one in texts:
        async with service.embedding:
            vectors.append(await asyncio.to_thread(service.embed, name, one))
    return vectors, sum(map(len, texts))


async def _encoded(service: Service, name: str, prompt: str | list[int]) -> list[int]:
    """Return the token ids of a prompt; a long text is encoded beside the event loop."""
    if isinstance(prompt, str):
        return await asyncio.to_thread(service.encode, name, prompt)
    return service.encode(name, prompt)


async def _grammar(
    service: Service, body: CompletionBody | ChatCompletionBody, form: CallFormat | None = None
) -> Grammar | None:
    """Return the grammar of a request, with `form` that of its tools; it may take a second to compile."""
    field = body.grammar_field if form is None else "tools"

    def compiled() -> Grammar | None:
        if form is not None and isinstance(body, ChatCompletionBody):
            text: str | None = body.tool_grammar(form)
        else:
            text = body.grammar_text()
        return None if text is None else service.grammar(body.model, text, field or "grammar")

    return None if field is None else await asyncio.to_thread(compiled)


def _seed(seed: int | None, index: int) -> int | None:
    return None if seed is None else derive(seed, "choice", index)


async def _answer_chat(service: Service, http: fastapi.Request, body: ChatCompletionBody, objects: Objects) -> Response:
    """Answer a conversation, with `objects` for its API."""
    form = call_format(service.chat(body.model)) if body.uses_tools else None
    tools, messages = body.offered, conversation(body.messages)
    encode = partial(service.encode, continued=body.continued, tools=tools or None)
    prompt_ids = await asyncio.to_thread(encode, body.model, messages)
    grammar = await _grammar(service, body, form if tools else None)
    requests = [body.request(prompt_ids, _seed(body.seed, index), grammar) for index in range(body.n)]
    reader = partial(CallReader, form, required=body.tool_choice != "auto") if form and tools else None
    choices = [Choice(index, reader=reader() if reader else None) for index in range(body.n)]
    try:
        return await _answer(service, http, body, objects, requests, choices)
    except Refused as error:
        if error.reason != "too_long" or not tools:
            raise
        without = await asyncio.to_thread(service.encode, body.model, messages)
        message = f"{error} Of these, {len(prompt_ids) - len(without)} are the tools; offer fewer."
        raise Refused(message, error.reason, error.field) from None


async def _answer(
    service: Service,
    http: fastapi.Request,
    body: CompletionBody | ChatCompletionBody,
    objects: Objects,
    requests: Sequence[Request],
    choices: Sequence[Choice],
) -> Response:
    """Submit all requests or none; return the response, streamed or complete."""
    prompt_field, model = objects.prompt_field, service.model(body.model)
    if len(requests) > (most := service.capacity(body.model)):
        message = f"{len(requests)} choices exceed this server's {most} at a time; reduce them, or raise --queue."
        raise Refused(message, "invalid", "n" if body.n > 1 else prompt_field)
    prompt_tokens = sum(len(one.prompt_ids) for one in requests[:: body.n])
    outputs = service.submit(body.model, requests, prompt_field, streamed=body.stream)
    if body.stream:
        counted = body.include_usage or not isinstance(objects, ResponseObjects)
        events = _events(objects, choices, outputs, model.table, prompt_tokens if counted else None)
        return _EventStream(events, objects.media_type, outputs)
    with outputs:
        await _until_disconnect(http.receive, _collect(choices, outputs, model.table))
    return JSONResponse(objects.complete(choices, prompt_tokens))


async def _collect(choices: Sequence[Choice], outputs: Outputs, table: Sequence[bytes]) -> None:
    async for ready in outputs:
        for index, chunk in ready:
            choices[index].add(chunk, table)


async def _events(
    objects: Objects,
    choices: Sequence[Choice],
    outputs: Outputs,
    table: Sequence[bytes],
    prompt_tokens: int | None,
) -> AsyncIterator[bytes]:
    """Yield the events of a stream, those that are ready at once; with `prompt_tokens`, it ends with the counts."""
    try:
        for choice in choices:
            for part in objects.first(choice):
                yield objects.frame(part)
        async for ready in outputs:
            events = [objects.chunk(choices[index], choices[index].add(chunk, table)) for index, chunk in ready]
            if data := b"".join(events):
                yield data
        for part in objects.last(choices, prompt_tokens):
            yield objects.frame(part)
    except Exception as error:
        # The status is sent already; clients raise the error of such a part.
        if not isinstance(error, UserError):
            _log.exception("A stream failed.")
        yield objects.frame(_error(error)[1])
    yield objects.tail


async def _until_disconnect(receive: Receive, work: Coroutine[Any, Any, _T]) -> None:
    """Run some work until it is finished or the client disconnects."""
    working = asyncio.ensure_future(work)
    disconnected = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({working, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        working.cancel()
        disconnected.cancel()
        await asyncio.gather(working, disconnected, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _EventStream(StreamingResponse):
    """Server-sent events, or lines of JSON; a disconnect of the client cancels the requests."""

    def __init__(self, events: AsyncIterator[bytes], media_type: str, outputs: Outputs):
        super().__init__(events, media_type=media_type, headers={"Cache-Control": "no-cache"})
        self._outputs = outputs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._outputs:
            await _until_disconnect(receive, self.stream_response(send))


def _add_errors(app: FastAPI) -> None:
    async def answer(http: fastapi.Request, error: Exception) -> Response:
        status, body, headers = _error(error)
        message = None
        if status == 400 and http.headers.get("content-encoding", "identity") != "identity":
            status, message = 415, "The header Content-Encoding is not supported; send the body uncompressed."
        elif isinstance(error, RequestValidationError) and not _says_json(http):
            status, message = 415, "The header Content-Type is not application/json; send it with the body."
        elif isinstance(error, HTTPException) and str(error.detail) == HTTPStatus(error.status_code).phrase:
            message, headers = _no_route(app, http, headers)
        if message:
            body = error_object(message, "invalid_request_error", None, None)
        return error_response(http.url.path, status, body, headers)

    kinds = (UserError, RequestValidationError, ValidationError, UnicodeEncodeError, RecursionError, HTTPException)
    for kind in (*kinds, Exception):
        app.add_exception_handler(kind, answer)


def _no_route(app: FastAPI, http: fastapi.Request, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Return the message and headers for a path or a method that no route has."""
    path, routes = http.url.path, [route for route in app.routes if isinstance(route, Route)]
    found = [route for route in routes if route.matches(http.scope)[0] is Match.PARTIAL]
    # Of a router within the application, only the header has the methods.
    methods = {method for route in found for method in route.methods or ()} | {*_listed(headers.get("Allow", ""))}
    allowed = ", ".join(sorted(methods))
    if allowed:
        return f"{path} does not take {http.method}; use {allowed}.", {"Allow": allowed}
    hint = f"OpenAI's API has /v1{path}" if f"/v1{path}" in {route.path for route in routes} else "see /openapi.json"
    return f"The path {path} does not exist; {hint}.", headers


def _listed(header: str) -> list[str]:
    return [part.strip() for part in header.split(",") if part.strip()]


def _says_json(http: fastapi.Request) -> bool:
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def _error(error: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Return the status, the body in OpenAI's shape, and headers."""
    if isinstance(error, UnicodeEncodeError):
        error = Refused("The text has an unpaired surrogate; send valid Unicode.", "invalid")
    if isinstance(error, RecursionError):
        error = Refused(_TOO_DEEP, "invalid")
    if isinstance(error, (RequestValidationError, ValidationError)):
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            place, cause = first["loc"][-1], first["ctx"]["error"]
            error = Refused(f"The body is not valid JSON: {cause}, at character {place}.", "invalid")
        else:
            error = invalid(first, first["loc"][1:])
    if isinstance(error, Refused):
        status, kind, code = _REFUSALS[error.reason]
        return status, error_object(str(error), kind, error.field, code), _RETRY if status in (429, 503) else {}
    if isinstance(error, UserError):
        return 400, error_object(str(error), "invalid_request_error", None, None), {}
    if isinstance(error, HTTPException):
        message = str(error.detail)
        if isinstance(error.__cause__, UnicodeDecodeError):
            message = f"The body is not UTF-8 at byte {error.__cause__.start}; send JSON in UTF-8."
        elif isinstance(error.__cause__, RecursionError):
            message = _TOO_DEEP
        elif isinstance(error.__cause__, ValueError):
            message = "The body has a number of too many digits; shorten it."
        body = error_object(message, "invalid_request_error", None, None)
        return error.status_code, body, dict(error.headers or {})
    return 500, error_object("The server failed; see its log.", "server_error", None, None), {}
