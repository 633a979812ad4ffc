"""The Prefect server: the configured one, or a child of this process where none answers."""

import base64
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from prefect.events.worker import EventsWorker
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging.handlers import APILogWorker
from prefect.settings import get_current_settings

from flows.local import children
from homegrown.util.errors import UserError

STOP_SECONDS = 20.0
"""How long a server that was told to stop may take."""
_START_SECONDS = 300  # it takes 7, and long on a machine that is busy
_ANSWER_SECONDS = 30  # of a server that has taken the connection; a busy one takes its time
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


@contextmanager
def running(log: Path) -> Iterator[str]:
    """Yield the address of a Prefect API that answers; start a server for the block where none does.

    The history of a server started here stays, in Prefect's database. Its output goes to the file `log`.

    Raises:
        UserError: no server answers at an address that is not this machine's, a new one does not come up, or it asks
            for a password that is not in the environment.
    """
    api = address()
    if answers(api):
        _knock(api)
        yield api
        return
    server = children.start(command(api), log)
    try:
        wait(server, api, log)
        _knock(api)
        try:
            yield api
        finally:
            if server.poll() is None:
                _deliver()
    finally:
        children.stop(server, STOP_SECONDS)


def address() -> str:
    """Return the configured address of the Prefect API."""
    return (get_current_settings().api.url or "http://127.0.0.1:4200/api").rstrip("/")


def answers(api: str) -> bool:
    """Say whether a Prefect API answers there. A server's own check of its health asks for no password."""
    try:
        return _status(f"{api}/health") == httpx.codes.OK
    except httpx.HTTPError:
        return False


def command(api: str) -> list[str]:
    """Return the arguments of the Python process that serves `api`.

    Raises:
        UserError: it is not an address of this machine, or something else answers there.
    """
    url = urlsplit(api)
    try:
        host, port = url.hostname or "", url.port or 80
    except ValueError as error:
        raise UserError(f"{api} is no address ({error}): set PREFECT_API_URL=http://127.0.0.1:PORT/api.") from error
    if host not in _LOOPBACK:
        raise UserError(f"No Prefect server answers at {api} (setting api.url, or PREFECT_API_URL in the environment).")
    if _is_taken(host, port):
        raise UserError(
            f"Port {port} of {host} is taken by something that is no Prefect server: choose another with "
            "PREFECT_API_URL=http://127.0.0.1:PORT/api."
        )
    return ["-m", "flows.local.guarded_server", host, str(port)]


def wait(server: "subprocess.Popen[bytes]", api: str, log: Path) -> None:
    """Wait until the server that was just started answers; raises UserError when it ends instead, or takes too long."""
    end = time.monotonic() + _START_SECONDS
    while not answers(api):
        if server.poll() is not None:
            raise UserError(f"A Prefect server could not be started at {api}: see the end of {log}.")
        if time.monotonic() > end:
            raise UserError(f"The Prefect server at {api} did not come up within {_START_SECONDS} s: see {log}.")
        time.sleep(0.2)


def refused(api: str, error: PrefectHTTPStatusError) -> str:
    """Say in a sentence why a server did not do what it was asked to."""
    if error.response.status_code == httpx.codes.UNAUTHORIZED:
        return _wants_password(api)
    return f"The Prefect server at {api} refused what was asked of it: {' '.join(str(error).split())}."


def _knock(api: str) -> None:
    """Raise UserError when the server asks for a password other than the one in the environment, if there is one."""
    with suppress(httpx.HTTPError):
        if _status(f"{api}/admin/version") == httpx.codes.UNAUTHORIZED:
            raise UserError(_wants_password(api))


def _wants_password(api: str) -> str:
    return f"The Prefect server at {api} asks for a password: set PREFECT_API_AUTH_STRING in the environment."


def _status(url: str) -> int:
    encrypted = url.startswith("https:")  # without, reading the certificates would be most of the work
    patience = httpx.Timeout(5, read=_ANSWER_SECONDS)
    return httpx.get(url, headers=_authorization(), timeout=patience, verify=encrypted).status_code


def _authorization() -> dict[str, str]:
    """Return the header by which Prefect Cloud, or a server with a password, knows its user."""
    api = get_current_settings().api
    if api.key:
        return {"Authorization": f"Bearer {api.key.get_secret_value()}"}
    if api.auth_string:
        return {"Authorization": f"Basic {base64.b64encode(api.auth_string.get_secret_value().encode()).decode()}"}
    return {}


def _is_taken(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=5):
            return True
    except OSError:
        return False


def _deliver() -> None:
    """Send what this process still has for the server, which would otherwise find it gone."""
    APILogWorker.drain_all(timeout=_ANSWER_SECONDS)
    EventsWorker.drain_all(timeout=_ANSWER_SECONDS)
