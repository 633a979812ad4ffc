"""What keeps a server on loopback to those it is for: the hosts it answers for, and what a browser may ask for.

Any web page that a browser has open could reach a server on loopback by a name of its own that it leads there (DNS
rebinding), or post to it without reading the answer. So a request for another host is refused, and so can one be that
a page of another origin sent; what our own pages may load is said in a header (Content Security Policy, level 3).
"""

import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from homegrown.util.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
"""This machine, as a browser names it."""

POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)
"""For pages made of scripts of their own: nothing comes from elsewhere, nothing goes there."""

_EVERYWHERE = ("0.0.0.0", "::")


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a server at this address."""
    return host.startswith("127.") or host in ("localhost", "::1")


def allowed_hosts(host: str) -> list[str]:
    """Return the hosts that a server at this address answers for: all, where it is open to other machines anyway."""
    return ["*"] if host in _EVERYWHERE else [*{f"[{host}]" if ":" in host else host, *LOOPBACK}]


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; raises UserError where it cannot."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(f"{host}:{port} cannot be used ({error.strerror}); choose another --port or --host.") from error


class Policy:
    """Sends the policy with every answer, for a browser to keep the page to; a narrower one of a page's own stays."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", POLICY)
                headers["Referrer-Policy"] = "no-referrer"
            await send(message)

        await self._app(scope, receive, with_policy)


class SameOrigin:
    """Refuses what a browser sends for a page of another origin; programs send no origin."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc != headers.get("host"):
                refusal = PlainTextResponse("Pages of another origin get no answer here.", 403)
                return await refusal(scope, receive, send)
        return await self._app(scope, receive, send)
