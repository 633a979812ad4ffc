"""Access to Gradio's application: the allowed paths, and the browser's content security policy."""

import base64
import hashlib
import re

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PATHS = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json)/?|/(assets|static|svelte)/.*"
    r"|/gradio_api/(queue/.*|heartbeat/.*|startup-events)/?"
)
"""The paths that the page needs; Gradio's others take files, fetch from elsewhere, or edit the program."""

_SCRIPT = re.compile(rb"<script(?:\s[^>]*)?>(.*?)</script>", re.DOTALL)

_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'{scripts}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; manifest-src 'self'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
"""Nothing from another host. Gradio evaluates its templates; the page's own scripts are listed by digest, so that a
script or an `onerror` in a model's output would not run even if it were not escaped."""


class PagePolicy:
    """Middleware around Gradio's application: it allows the paths that the page needs, and adds the policy.

    The policy is narrower than that of `homegrown.util.guard`, which keeps an existing one.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises HTTPException 404 for other paths."""
        if scope["type"] != "http" or not _PATHS.fullmatch(scope["path"]):
            raise HTTPException(404)
        if scope["path"] == "/":
            # Uncompressed, because the scripts in it are read.
            plain = [header for header in scope["headers"] if header[0] != b"accept-encoding"]
            await self._app({**scope, "headers": plain}, receive, _Buffered(send).send)
        else:
            await self._app(scope, receive, _with_policy(send))


def _with_policy(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            _protect(message, b"")
        await send(message)

    return sent


class _Buffered:
    """A response whose headers wait for its body, which determines the policy."""

    def __init__(self, send: Send):
        self._send, self._body = send, b""
        self._start: Message = {}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._body += message.get("body", b"")
        if not message.get("more_body"):
            _protect(self._start, self._body)
            await self._send(self._start)
            await self._send({"type": "http.response.body", "body": self._body})


def _protect(start: Message, page: bytes) -> None:
    digests = (base64.b64encode(hashlib.sha256(script).digest()).decode() for script in _SCRIPT.findall(page) if script)
    headers = MutableHeaders(raw=start["headers"])
    headers["Content-Security-Policy"] = _POLICY.format(scripts="".join(f" 'sha256-{digest}'" for digest in digests))
    headers["X-Content-Type-Options"] = "nosniff"
