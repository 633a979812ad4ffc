"""A Prefect server for a run: the configured one, or a child of this process where none answers."""

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import get_current_settings

from homegrown.errors import UserError

_START_SECONDS = 120
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


@contextmanager
def running(log: Path) -> Iterator[str]:
    """Yield the address of a Prefect API that answers; start a server for the block where none does.

    The history of a server started here stays, in Prefect's database. Its output goes to the file `log`.

    Raises:
        UserError: no server answers at an address that is not this machine's, or a new one does not come up.
    """
    api = get_current_settings().api.url or "http://127.0.0.1:4200/api"
    if _answers(api):
        yield api
        return
    address = urlsplit(api)
    if address.hostname not in _LOOPBACK:
        raise UserError(f"No Prefect server answers at {api} (setting api.url, or PREFECT_API_URL in the environment).")
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", address.hostname]
    command += ["--port", str(address.port or 80)]
    with log.open("ab") as output:
        # A session of its own: Ctrl-C in the terminal stops the run first, which then still can tell the server so.
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_stop_with_parent if sys.platform == "linux" else None,
        )
    try:
        _wait(server, api, log)
        try:
            yield api
        finally:
            _deliver()
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _deliver() -> None:
    """Send what this process still has for the server, which would otherwise find it gone."""
    APILogWorker.drain_all(timeout=5)
    EventsWorker.drain_all(timeout=5)


def _wait(server: subprocess.Popen[bytes], api: str, log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while not _answers(api):
        if server.poll() is not None:
            raise UserError(
                f"A Prefect server could not be started at {api}: see the end of {log} (is the port taken? Choose "
                "another with PREFECT_API_URL=http://127.0.0.1:PORT/api)."
            )
        if time.monotonic() > end:
            raise UserError(f"The Prefect server at {api} did not come up within {_START_SECONDS} s: see {log}.")
        time.sleep(0.2)


def _answers(api: str) -> bool:
    try:
        return httpx.get(f"{api}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def _stop_with_parent() -> None:
    """Have the kernel end this child when its parent dies, even by `kill -9` (Linux: prctl, PR_SET_PDEATHSIG)."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
