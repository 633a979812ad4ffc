"""The owner of a Prefect server of this machine: whose runs it shows, and whose files its logs name."""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from homegrown.util.errors import UserError
from homegrown.util.users import user_name

LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_LISTENS = "0A"  # the state of a socket in /proc/net/tcp
_ADDRESSES = ["0100007F", f"{'0' * 24}01000000", f"{'0' * 16}FFFF00000100007F", "00000000", "0" * 32]
"""How /proc/net/tcp writes 127.0.0.1, ::1, ::ffff:127.0.0.1 and any address; the most specific gets a connection."""
_ROOT = 0  # containers' ports belong to it


def check(api: str, *, may_choose: bool) -> None:
    """Refuse a server of this machine that belongs to another user, as it would mix the runs of two users.

    Args:
        api: Address of a server that answers.
        may_choose: Whether PREFECT_API_URL in the environment may name another user's server; root's it always may.

    Raises:
        UserError: the server belongs to another user and was not chosen.
    """
    uid = _owner(api) if is_local(api) else None
    if uid not in (None, os.geteuid()) and not (_is_chosen() and (may_choose or uid == _ROOT)):
        raise UserError(
            f"The Prefect server at {api} belongs to the user {user_name(uid)}; choose another port with "
            "PREFECT_API_URL=http://127.0.0.1:PORT/api."
        )


def other_user(api: str) -> str | None:
    """Return the user, other than this one, whose server answers at a local address; None otherwise."""
    uid = _owner(api) if is_local(api) else None
    return None if uid in (None, os.geteuid()) else user_name(uid)


def is_local(api: str) -> bool:
    """Return whether an address is on this machine."""
    return (urlsplit(api).hostname or "") in LOOPBACK


def _is_chosen() -> bool:
    """Return whether the environment, and not the project's settings, names the server."""
    if "PREFECT_API_URL" in os.environ:
        return True
    with suppress(OSError):
        return "PREFECT_API_URL" in Path(".env").read_text()
    return False


def _owner(api: str) -> int | None:
    """Return the user id of the process that listens at a local address; None if it is unknown."""
    port = urlsplit(api).port or 80
    if sys.platform == "linux":
        found = [(_ADDRESSES.index(address), uid) for address, listening, uid in _listening() if listening == port]
        return min(found)[1] if found else None
    for process in psutil.process_iter():  # only one's own processes show their sockets
        with suppress(psutil.Error):
            if any(one.laddr.port == port for one in process.net_connections() if one.status == psutil.CONN_LISTEN):
                return int(process.uids().effective)
    return None


def _listening() -> Iterator[tuple[str, int, int]]:
    """Yield the address, the port and the user id of each socket that listens on this machine's loopback."""
    for family in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path("/proc/net", family).read_text().splitlines()[1:]:
                columns = line.split()
                address, _, port = columns[1].rpartition(":")
                if columns[3] == _LISTENS and address in _ADDRESSES:
                    yield address, int(port, 16), int(columns[7])
