"""The Prefect server with guards: `python -m flows.local.guarded_server HOST PORT USERS`.

USERS is the folder of the locks of its users (`flows.local.server_users`), with the last of which it ends. Prefect's
settings apply as for `prefect server start`. Its UI shows logos from the web and its server downloads lists
of blocks and workers from GitHub; any web page in the browser can reach a server on loopback by DNS rebinding. The
guards prevent all of that: a Content Security Policy (level 3) limits what the browser requests, the lists come from
Prefect's package, and a request for another host is refused.
"""

import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp


def guarded() -> "ASGIApp":
    """Return Prefect's application wrapped in the guards.

    They wrap it because its own automations call it inside the process, by the host name prefect-in-memory.
    """
    from prefect.server.api.server import create_app
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from flows.local.prefect_internals import forget_lost_events, use_packaged_views, write_in_turn
    from homegrown.util.guard import LOOPBACK, Policy

    use_packaged_views()
    forget_lost_events()
    write_in_turn()
    app = create_app(final=True)
    return Policy(TrustedHostMiddleware(app, allowed_hosts=LOOPBACK, www_redirect=False))


def main(host: str, port: int, users: Path) -> None:
    """Serve until nobody uses the server."""
    # What the imports make stays; looking through it for garbage meanwhile takes a quarter of their time.
    gc.disable()
    import uvicorn
    from prefect.settings import get_current_settings

    from flows.local import server_users

    server_users.end_with_users(users)
    settings = get_current_settings().server
    app = guarded()
    gc.freeze()
    gc.enable()
    uvicorn.run(
        app,
        host=host,
        port=port,
        timeout_keep_alive=settings.api.keepalive_timeout,
        ws_ping_interval=settings.api.websocket_ping_interval,
        ws_ping_timeout=settings.api.websocket_ping_timeout,
        log_level=settings.logging_level.lower(),
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
