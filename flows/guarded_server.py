"""The Prefect server as we start it: asked by its own name only, with a UI that asks nobody else.

`python -m flows.guarded_server HOST PORT`. Prefect's settings hold as for `prefect server start`.

On some pages Prefect's UI shows logos from the web, and its server fetches lists of blocks and workers from GitHub.
And any web page that a browser has open could reach a server on loopback by a name of its own that it leads there (DNS
rebinding). Nothing of that works here: what the browser may ask for is said in a header (Content Security Policy, level
3), the lists are those that come with Prefect, and a request for another host is refused.
"""

import json
import sys
from pathlib import Path
from typing import Any

import uvicorn
from prefect.server.api import collections
from prefect.server.api.server import create_app
from prefect.settings import get_current_settings
from starlette.datastructures import MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)
_LOOPBACK = ["127.0.0.1", "localhost", "[::1]"]


class _Policy:
    """Sends the policy with every answer, for the browser to keep the page to."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = _POLICY
                headers["Referrer-Policy"] = "no-referrer"
            await send(message)

        await self._app(scope, receive, with_policy)


def guarded() -> ASGIApp:
    """Return Prefect's application behind the guards.

    They stand before it, not in it: its own automations ask it within the process, by the name prefect-in-memory.
    """
    _keep_packaged_views()
    app = create_app(final=True)
    return _Policy(TrustedHostMiddleware(app, allowed_hosts=_LOOPBACK, www_redirect=False))


def _keep_packaged_views() -> None:
    """Have the lists of blocks, flows and worker types read from Prefect's own package for as long as this runs."""
    folder = Path(collections.__file__).parent / "collections_data" / "views"
    kept: dict[str, dict[str, Any]] = {
        view: json.loads(file.read_text())
        for view in collections.KNOWN_VIEWS
        if (file := folder / f"{view}.json").is_file()
    }
    collections.KNOWN_VIEWS = {view: address for view, address in collections.KNOWN_VIEWS.items() if view in kept}
    collections.GLOBAL_COLLECTIONS_VIEW_CACHE = kept  # type: ignore[assignment]  # which forgets nothing


def main(host: str, port: int) -> None:
    """Serve until told to stop."""
    settings = get_current_settings().server
    uvicorn.run(
        guarded(),
        host=host,
        port=port,
        timeout_keep_alive=settings.api.keepalive_timeout,
        ws_ping_interval=settings.api.websocket_ping_interval,
        ws_ping_timeout=settings.api.websocket_ping_timeout,
        log_level=settings.logging_level.lower(),
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
