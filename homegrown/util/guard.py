"""Protection of servers on loopback: allowed hosts, origins, and a content security policy.

Any web page open in a browser can reach a server on loopback under a host name of its own (DNS rebinding), or post to
it without reading the response. So requests for other hosts are refused, and optionally those from pages of other
origins. A header limits what our own pages load (Content Security Policy, level 3).
"""

import re
import socket
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from homegrown.util.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
"""Names of this machine in a browser."""

POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)
"""For pages with inline scripts: they load nothing from other hosts and send nothing to them."""

_EVERYWHERE = ("0.0.0.0", "::")

HOST_NAME = r"[A-Za-z0-9.-]+"

Refusal = Callable[[Scope, int, str], Response]
"""Returns the response of a refused request from its status and its message."""


def plain_refusal(_: Scope, status: int, message: str) -> Response:
    """Return the message as plain text."""
    return PlainTextResponse(message, status)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server at this address."""
    return host.startswith("127.") or host in ("localhost", "::1")


def allowed_hosts(host: str) -> list[str]:
    """Return the hosts that a server at this address accepts: all if it listens on every interface."""
    return ["*"] if host in _EVERYWHERE else [*{f"[{host}]" if ":" in host else host, *LOOPBACK}]


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; raise UserError if the address is not available."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(f"Cannot listen on {host}:{port} ({error.strerror}); change --port or --host.") from error


class Policy:
    """Adds the policy to every response; a page's own policy stays."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""

        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", POLICY)
                headers["Referrer-Policy"] = "no-referrer"
            await send(message)

        await self._app(scope, receive, with_policy)


class AllowedHosts:
    """Refuses requests for host names other than `hosts`, of which `*` allows all."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str], advice: str, refusal: Refusal = plain_refusal) -> None:
        """`advice` tells what to do; `{host}` in it is the name that was refused."""
        self._app, self._hosts = app, frozenset(host.strip("[]").lower() for host in hosts)
        self._advice, self._refusal = advice, refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle or refuse one request."""
        if scope["type"] in ("http", "websocket") and "*" not in self._hosts:
            host = _host_name(Headers(scope=scope).get("host", ""))
            if host is None or host.lower() not in self._hosts:
                message = "The header Host names no host; send the address of the server."
                if host is not None:
                    message = f"The host name {host} is refused; {self._advice.replace('{host}', host)}."
                return await self._refusal(scope, 400, message)(scope, receive, send)
        return await self._app(scope, receive, send)


def _host_name(header: str) -> str | None:
    """Return the name in a header Host, without its port; None if it has none."""
    found = re.fullmatch(rf"({HOST_NAME})(:\d*)?|\[([0-9A-Fa-f:.]+)\](:\d*)?", header)
    return found and (found[1] or found[3])


class SameOrigin:
    """Refuses requests from pages of another origin, except those of `allowed`; programs send no origin."""

    def __init__(self, app: ASGIApp, allowed: Sequence[str] = (), refusal: Refusal = plain_refusal) -> None:
        self._app, self._allowed, self._refusal = app, frozenset(allowed), refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle or refuse one request."""
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            same = origin is None or urlsplit(origin).netloc == headers.get("host")
            if not (same or origin in self._allowed):
                message = f"Requests from pages of {origin} are refused; allow them with --allow-origin {origin}."
                if origin == "null":
                    message = "Requests from pages without an origin are refused; open the page from a server."
                return await self._refusal(scope, 403, message)(scope, receive, send)
        return await self._app(scope, receive, send)
