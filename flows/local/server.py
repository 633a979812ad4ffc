"""The Prefect server: the configured one, or one that is started if none answers and ends with its last user."""

import base64
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from prefect.context import refresh_global_settings_context
from prefect.events.worker import EventsWorker
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging.handlers import APILogWorker
from prefect.settings import get_current_settings

from flows.local import children, server_database, server_log, server_owner, server_users
from homegrown.util.errors import UserError
from homegrown.util.files import is_shared
from homegrown.util.users import user_name

_ADDRESS = "http://127.0.0.1:4200/api"
_START_SECONDS = 300  # it takes 7, more on a busy machine
_ANSWER_SECONDS = 30  # of a busy server that has accepted the connection


if not get_current_settings().api.url:
    # Outside of a project's folder; Prefect's clients would start a server of their own in every process.
    os.environ["PREFECT_API_URL"] = _ADDRESS
    refresh_global_settings_context()


@contextmanager
def running(log: Path) -> Iterator[str]:
    """Yield the address of a Prefect API that answers; if none does, start a server.

    A server started here runs until no process of this machine uses it any more. Prefect's database keeps its history.
    Its output goes to the file `log`.

    Raises:
        UserError: no server answers at an address of another machine, a new one does not start, the server requires a
            password that is not in the environment, or it is another user's and the environment does not name it.
    """
    api = address()
    users = server_users.folder_of(api)
    with server_users.registered(users):
        with server_users.gate(users):
            if answers(api):
                server_owner.check(api, may_choose=True)
            else:
                arguments = command(api)
                server_database.compact()
                server_log.start_anew(log)
                server = children.start(arguments, log, tied=False)
                try:
                    wait(server, api, log)
                except BaseException:
                    children.stop(server, server_users.STOP_SECONDS)
                    raise
        _check_password(api)
        try:
            yield api
        finally:
            if answers(api):
                _flush()


def address() -> str:
    """Return the configured address of the Prefect API."""
    return (get_current_settings().api.url or _ADDRESS).rstrip("/")


def log_of(state: Path) -> Path:
    """Return the file of the server's log in the folder of a store's state; in a shared store each user has one."""
    return state / (f"server-{user_name()}.log" if is_shared(state.parent) else "server.log")


def answers(api: str) -> bool:
    """Return whether a Prefect API answers; its health check needs no password."""
    try:
        return _status(f"{api}/health") == httpx.codes.OK
    except httpx.HTTPError:
        return False


def command(api: str) -> list[str]:
    """Return the arguments of the Python process that serves `api`.

    Raises:
        UserError: the address is invalid or not of this machine, or its port is taken.
    """
    url = urlsplit(api)
    try:
        host, port = url.hostname or "", url.port or 80
    except ValueError as error:
        raise UserError(
            f"{api} is not a valid address ({error}); set PREFECT_API_URL=http://127.0.0.1:PORT/api."
        ) from error
    if not server_owner.is_local(api):
        raise UserError(f"No Prefect server answers at {api}; start it there or set another PREFECT_API_URL.")
    if _is_taken(host, port):
        raise UserError(
            f"Port {port} of {host} is taken by a program that is not a Prefect server; choose another with "
            "PREFECT_API_URL=http://127.0.0.1:PORT/api."
        )
    return ["-m", "flows.local.guarded_server", host, str(port), str(server_users.folder_of(api))]


def wait(server: "subprocess.Popen[bytes]", api: str, log: Path) -> None:
    """Wait until a new server answers; raise UserError if it exits or takes too long."""
    end = time.monotonic() + _START_SECONDS
    while not answers(api):
        if server.poll() is not None:
            raise UserError(f"The Prefect server at {api} did not start; see the end of {log}.")
        if time.monotonic() > end:
            raise UserError(f"The Prefect server at {api} did not start within {_START_SECONDS} s; see {log}.")
        time.sleep(0.2)


def refused(api: str, error: PrefectHTTPStatusError) -> str:
    """Return the error message for a request that a server refused."""
    if error.response.status_code == httpx.codes.UNAUTHORIZED:
        return _password_message(api)
    return f"The Prefect server at {api} refused a request: {' '.join(str(error).split())}."


def _check_password(api: str) -> None:
    """Raise UserError if the server requires a password and the environment has none or a wrong one."""
    with suppress(httpx.HTTPError):
        if _status(f"{api}/admin/version") == httpx.codes.UNAUTHORIZED:
            raise UserError(_password_message(api))


def _password_message(api: str) -> str:
    return f"The Prefect server at {api} requires a password; set PREFECT_API_AUTH_STRING in the environment."


def _status(url: str) -> int:
    encrypted = url.startswith("https:")  # loading the certificates takes most of the time
    patience = httpx.Timeout(5, read=_ANSWER_SECONDS)
    return httpx.get(url, headers=_authorization(), timeout=patience, verify=encrypted).status_code


def _authorization() -> dict[str, str]:
    """Return the authorization header for Prefect Cloud or a server with a password."""
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


def _flush() -> None:
    """Send the logs and events that this process still has for the server."""
    APILogWorker.drain_all(timeout=_ANSWER_SECONDS)
    EventsWorker.drain_all(timeout=_ANSWER_SECONDS)
