"""Middleware: the API key, size and type of bodies, and the count of answers."""

import base64
import binascii
import hmac

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from homegrown.serving.metrics import Metrics
from homegrown.serving.responses import error_object, error_response
from homegrown.util.guard import plain_refusal

MAX_BYTES = 4_000_000
"""Of a request's body."""

_OPEN = ("/health",)


def refusal(scope: Scope, status: int, message: str, code: str | None = None) -> Response:
    """Return the response of a request that reaches no route: text for a browser at the page, otherwise an error."""
    if scope["path"] == "/":
        return plain_refusal(scope, status, message)
    return error_response(scope["path"], status, error_object(message, "invalid_request_error", None, code))


class ApiKeyCheck:
    """Requires the API key, if the server has one.

    Programs send it as OpenAI's clients do (`Authorization: Bearer KEY`). A browser asks for a user name and a
    password: any name, and the key.
    """

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self._app, self._key = app, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or refuse one request."""
        if scope["type"] == "lifespan" or scope["path"] in _OPEN or self._has_key(Headers(scope=scope)):
            return await self._app(scope, receive, send)
        # The header makes browsers ask for a password; it would confuse programs.
        headers = {} if scope["path"].startswith("/v1/") else {"WWW-Authenticate": 'Basic realm="homegrown"'}
        message = "The API key is missing or wrong; send the key of the server."
        answer = refusal(scope, 401, message, "invalid_api_key")
        answer.headers.update(headers)
        return await answer(scope, receive, send)

    def _has_key(self, headers: Headers) -> bool:
        if self._key is None:
            return True
        scheme, _, sent = headers.get("authorization", "").partition(" ")
        # Starlette decodes headers as Latin-1; the key is compared as the bytes that were sent, UTF-8.
        key = _password(sent) if scheme.lower() == "basic" else sent.encode("latin-1")
        return hmac.compare_digest(key, self._key.encode())


def _password(credentials: str) -> bytes:
    try:
        return base64.b64decode(credentials).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""


class BodyLimit:
    """Refuses a request whose body is longer than `MAX_BYTES`, before all of it is received."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BYTES:
                raise HTTPException(413, f"The request body exceeds {MAX_BYTES:,} bytes; shorten it.")
            return message

        await self._app(scope, counted if scope["type"] == "http" else receive, send)


class AnyTypeIsJson:
    """Reads every body of Ollama's routes as JSON, as Ollama does: the commands of its documentation name no type."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and scope["path"].startswith("/api/"):
            MutableHeaders(scope=scope)["content-type"] = "application/json"
        await self._app(scope, receive, send)


class AnswerCount:
    """Counts answers by route and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Paths without a route of ours, such as the page's files, could be any number.
                path = getattr(scope.get("route"), "path", None) or "other"
                self._metrics.answered(path, message["status"])
            await send(message)

        return await self._app(scope, receive, counted)
