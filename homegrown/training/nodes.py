"""Several machines that train together: their address, the invitation of those that join, and their interfaces.

The machine of the run listens at one address alone, that of `compute.rendezvous`. PyTorch's elastic launchers meet
there, and exchange pickles: whoever reaches the address can run any code on all machines.
"""

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import psutil
from torch._C._distributed_c10d import TCPStore
from torch.distributed import DistStoreError

from homegrown.training.job import RENDEZVOUS, Nodes
from homegrown.util.errors import UserError

_INVITATION = "homegrown/invitation"
_CONNECT = timedelta(seconds=5)
_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Invitation:
    """What each machine runs: `processes` of the module `worker` on the job, beside the other `nodes`."""

    job: str
    worker: str
    processes: int
    nodes: int
    device: str


def split(address: str) -> tuple[str, int]:
    """Return host and port of an address.

    Raises:
        UserError: it is not HOST:PORT.
    """
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
        raise UserError(f"{address!r} is not an address; write HOST:PORT, such as 10.0.0.1:29400.")
    return host, int(port)


@contextmanager
def inviting(nodes: Nodes, invitation: Invitation) -> Iterator[None]:
    """Listen at the address of `nodes`, and there alone, and give all who join the invitation.

    Raises:
        UserError: this machine cannot listen there.
    """
    host, port = split(nodes.address)
    try:
        listening = socket.create_server((host, port))
    except OSError as error:
        raise UserError(
            f"compute.rendezvous {nodes.address}: {error.strerror or error}; set it to a free port of an address of "
            "this machine."
        ) from error
    # PyTorch would listen at all addresses of the machine, and takes a socket that listens at one.
    store = TCPStore(host, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach())
    store.set(_INVITATION, json.dumps(asdict(invitation)))
    try:
        yield
    finally:
        del store


def invited(address: str) -> Invitation:
    """Wait for a run that listens at `address`, and return its invitation.

    Raises:
        UserError: its folder is not there on this machine.
    """
    host, port = split(address)
    while True:
        try:
            with socket.create_connection((host, port), timeout=_CONNECT.total_seconds()):
                pass
            store = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=_CONNECT)
            invitation = Invitation(**json.loads(store.get(_INVITATION)))
            break
        except (OSError, DistStoreError, RuntimeError):
            time.sleep(_POLL_SECONDS)
    if not Path(invitation.job).exists():
        raise UserError(
            f"The run at {address} works in {Path(invitation.job).parent}, which is not on this machine; share the "
            "folder of the artifacts and mount it at the same path."
        )
    return invitation


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment for the processes that are started in the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def meeting(address: str) -> dict[str, str]:
    """Return the variables by which workers find the others: the address, and the interface that leads there."""
    interface = interface_of(local_address(address))
    chosen = {name: os.environ.get(name, interface) for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")}
    return {RENDEZVOUS: address, **chosen}


def local_address(address: str) -> str:
    """Return the address of this machine from which it reaches `address`; nothing is sent."""
    host, port = split(address)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, port))
            return str(probe.getsockname()[0])
    except OSError as error:
        raise UserError(
            f"{address} is out of reach ({error.strerror or error}); check its name and the net."
        ) from error


def interface_of(local: str) -> str:
    """Return the network interface with an address of this machine."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address == local for one in addresses):
            return str(name)
    raise UserError(f"No network interface has the address {local}; choose another compute.rendezvous.")
