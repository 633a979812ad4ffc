"""Who gets in and with how much: the API key, the size of a request, and the count of answers."""

import base64
import binascii
import hmac

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from homegrown.serving.answers import error_object
from homegrown.serving.metrics import Metrics

MOST_BYTES = 4_000_000
"""Of a request's body."""

_OPEN = ("/health",)


class KeyAsked:
    """Lets requests with the key in; without a key of the server's, all.

    Programs send it as OpenAI's clients do (`Authorization: Bearer KEY`). A browser asks for a name and a password:
    any name, and the key.
    """

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self._app, self._key = app, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] == "lifespan" or scope["path"] in _OPEN or self._knows(Headers(scope=scope)):
            return await self._app(scope, receive, send)
        # Browsers ask for a password where they are told so; programs would be confused by it.
        headers = {} if scope["path"].startswith("/v1/") else {"WWW-Authenticate": 'Basic realm="homegrown"'}
        sentence = "The API key is missing or wrong; send the one that the server was started with."
        refusal = error_object(sentence, "invalid_request_error", None, "invalid_api_key")
        return await JSONResponse(refusal, 401, headers)(scope, receive, send)

    def _knows(self, headers: Headers) -> bool:
        if self._key is None:
            return True
        scheme, _, sent = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            sent = _password(sent)
        return hmac.compare_digest(sent.encode(), self._key.encode())


def _password(credentials: str) -> str:
    try:
        return base64.b64decode(credentials).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


class ShortBodies:
    """Refuses a request whose body is longer than `MOST_BYTES`, before it is all there."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > MOST_BYTES:
                raise HTTPException(413, f"The request has more than {MOST_BYTES:,} bytes; shorten it.")
            return message

        await self._app(scope, counted if scope["type"] == "http" else receive, send)


class Counted:
    """Counts answers by route and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Of what has no route of ours, such as the page's files, there could be any number of paths.
                path = getattr(scope.get("route"), "path", None) or "other"
                self._metrics.answered(path, message["status"])
            await send(message)

        return await self._app(scope, receive, noted)
