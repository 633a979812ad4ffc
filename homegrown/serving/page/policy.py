"""What of Gradio's application is answered, and what a browser may do with it."""

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
"""Of Gradio's addresses those that the page asks for; others take files, fetch from elsewhere, or edit the program."""

_SCRIPT = re.compile(rb"<script(?:\s[^>]*)?>(.*?)</script>", re.DOTALL)

_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'{scripts}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; manifest-src 'self'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
"""Nothing from another host. Gradio evaluates its templates; the scripts in its page are named by their digests, so
that one that came with a text, or an `onerror`, would not run even if it had not been escaped."""


class PagePolicy:
    """Around Gradio's application: the addresses that the page needs, and a policy for the browser.

    The policy is narrower than that of `homegrown.util.guard`, which leaves one alone that is there.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises HTTPException, for the application around it, where there is nothing."""
        if scope["type"] != "http" or not _PATHS.fullmatch(scope["path"]):
            raise HTTPException(404)
        if scope["path"] == "/":
            # Uncompressed, or its scripts could not be read.
            plain = [header for header in scope["headers"] if header[0] != b"accept-encoding"]
            await self._app({**scope, "headers": plain}, receive, _Whole(send).send)
        else:
            await self._app(scope, receive, _with_policy(send))


def _with_policy(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            _protect(message, b"")
        await send(message)

    return sent


class _Whole:
    """A response whose head waits for its body, which decides the policy."""

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
