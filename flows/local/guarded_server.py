"""The Prefect server as we start it: asked by its own name only, with a UI that asks nobody else.

`python -m flows.local.guarded_server HOST PORT`. Prefect's settings hold as for `prefect server start`.

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
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp

from homegrown.util.guard import LOOPBACK, Policy


def guarded() -> ASGIApp:
    """Return Prefect's application behind the guards.

    They stand before it, not in it: its own automations ask it within the process, by the name prefect-in-memory.
    """
    _keep_packaged_views()
    app = create_app(final=True)
    return Policy(TrustedHostMiddleware(app, allowed_hosts=LOOPBACK, www_redirect=False))


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
