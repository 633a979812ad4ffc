"""Shards on the workers of a Dask cluster, behind the interface of `concurrent.futures`.

Dask reruns a shard on another worker when its worker dies. Workers write the same bytes as this machine: one with
other code or library versions is refused. A scheduler and its workers run any code that arrives over the network, and
so does a client. So connections go only to this machine, or to the address in the environment.
"""

import functools
import ipaddress
import os
import platform
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from homegrown.cluster import through_store
from homegrown.cluster.through_store import Parcel, ThroughStore
from homegrown.config.compute import ComputeSettings
from homegrown.store.artifacts import Store
from homegrown.store.fingerprint import code_fingerprint
from homegrown.store.manifest import Artifact, libraries
from homegrown.store.remote import VARIABLE
from homegrown.util.errors import UserError
from homegrown.util.files import replacing
from homegrown.util.parallel import spin_less

if TYPE_CHECKING:
    from distributed import Client

Result = TypeVar("Result")
Facts = tuple[tuple[str, str], ...]

ADDRESS = "DASK_SCHEDULER_ADDRESS"
CONNECT_SECONDS = 10
WORKERS_SECONDS = 60
_TRANSFERS = 16  # concurrent transfers


@contextmanager
def dask_workers(
    compute: ComputeSettings, store: Store, out: Path, inputs: Sequence[Artifact] = ()
) -> Iterator[Executor]:
    """Yield an executor on the cluster's workers for the shards of the stage that writes the partial folder `out`.

    Workers without access to the artifacts folder exchange files through the store's remote; others find the files of
    the `inputs` in the folder. After an exception, running shards finish, and nothing waits for them.

    Raises:
        UserError: distributed is not installed, no scheduler answers, workers are too few, or a worker cannot import
            homegrown, has other versions, or has access to neither the artifacts folder nor a remote.
    """
    address = _address(compute)
    with _connected(address) as client:
        _wait_for_workers(client, address, compute.workers or 1)
        _check(client, address)
        carrier = None
        if not _is_seen(client, store.root / ".state"):
            if store.remote is None:
                raise UserError(
                    f"The workers of {address} have no access to the folder {store.root}; share it under the same "
                    f"path, or set {VARIABLE} to a store that all can reach, such as s3://bucket/prefix."
                )
            carrier = ThroughStore(store.remote, store.root, out)
        else:
            for artifact in inputs:
                store.fetch(artifact)
        threads = sum(client.nthreads().values())
        with ThreadPoolExecutor(_TRANSFERS, "transfers") as transfers:
            yield ClusterExecutor(client, address, threads, carrier, transfers)


class ClusterExecutor(Executor):
    """Submits to a Dask client. Futures cannot be cancelled: their shards may already be writing."""

    def __init__(
        self, client: "Client", address: str, threads: int, carrier: ThroughStore | None, transfers: ThreadPoolExecutor
    ) -> None:
        self._max_workers = threads  # as in the pools of concurrent.futures
        self._address = address
        self.client = client
        self._dask = client.get_executor(pure=False)
        self._store = carrier
        self._transfers = transfers
        self._facts = functools.cache(facts)

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> "Future[Result]":
        """Call `fn`, a function of a module that workers can import, with `args` on a worker."""
        if kwargs:
            raise TypeError("functions of shards take no keyword arguments")
        future: Future[Result] = Future()
        future.set_running_or_notify_cancel()
        if self._store is None:
            self._send(future, fn, args, args)
        else:
            self._transfers.submit(self._exchange, self._store, future, fn, args)
        return future

    def _exchange(
        self, carrier: ThroughStore, future: "Future[Any]", fn: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        with _passing_errors_to(future):
            if done := carrier.delivered(fn, args):
                future.set_result(done[0])
            else:
                self._send(future, fn, args, carrier.pack(args))

    def _send(self, future: "Future[Any]", fn: Callable[..., Any], args: tuple[Any, ...], what: Any) -> None:
        sent = self._dask.submit(run_shard, fn, what, self._facts(fn.__module__))
        sent.add_done_callback(functools.partial(self._returned, future, fn, args))

    def _returned(
        self, future: "Future[Any]", fn: Callable[..., Any], args: tuple[Any, ...], sent: "Future[Any]"
    ) -> None:
        from distributed.scheduler import KilledWorker

        with _passing_errors_to(future):
            if sent.cancelled():
                raise ConnectionError(f"Lost the Dask scheduler at {self._address}; finished shards are kept.")
            try:
                result = sent.result()
            except KilledWorker as error:
                raise UserError(
                    f"{error.allowed_failures + 1} workers of {self._address} died on {_described(fn, args)}, most "
                    "likely out of memory; give workers more memory, or lower shard_mb."
                ) from error
            if self._store is None:
                future.set_result(result)
            else:
                self._transfers.submit(self._unpack, self._store, future, fn, args, result)

    def _unpack(
        self, carrier: ThroughStore, future: "Future[Any]", fn: Callable[..., Any], args: tuple[Any, ...], result: Any
    ) -> None:
        with _passing_errors_to(future):
            future.set_result(carrier.unpack(fn, args, result))


@contextmanager
def _passing_errors_to(future: "Future[Any]") -> Iterator[None]:
    """Set an exception of the block as the result of the future."""
    try:
        yield
    except BaseException as error:
        future.set_exception(error)


def _described(fn: Callable[..., Any], args: tuple[Any, ...]) -> str:
    paths = through_store.paths(args)
    return f"one shard ({fn.__name__} of {paths[0] if paths else args})"


# --- connecting -------------------------------------------------------------------------------------------------------


def _address(compute: ComputeSettings) -> str:
    known = os.environ.get(ADDRESS)
    address = compute.address or known
    if not address:
        raise UserError(
            f"compute.executor=dask needs an address: set compute.address, such as tcp://127.0.0.1:8786, or {ADDRESS} "
            "in the environment."
        )
    if address != known and not _is_loopback(urlsplit(address).hostname or ""):
        raise UserError(
            f"compute.address is {address}, a scheduler on another machine, which can run any code on this one; "
            f"if you trust it, set {ADDRESS}={address} in the environment."
        )
    return address


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def _connected(address: str) -> Iterator["Client"]:
    try:
        from distributed import Client
    except ImportError as error:
        raise UserError("compute.executor=dask needs distributed; run: pip install 'homegrown[dask]'.") from error
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"No Dask scheduler answers at {address} (compute.address); start one with `dask scheduler`, or set "
            "compute.executor=processes."
        ) from error
    try:
        yield client
    finally:
        client.close(timeout=CONNECT_SECONDS)


def _wait_for_workers(client: "Client", address: str, count: int) -> None:
    try:
        client.wait_for_workers(count, timeout=WORKERS_SECONDS)
    except TimeoutError as error:
        there = len(client.scheduler_info(n_workers=-1)["workers"])
        raise UserError(
            f"The Dask scheduler at {address} has {there} of {count} workers (compute.workers) after "
            f"{WORKERS_SECONDS} s; start more with `dask worker {address} --nworkers auto --nthreads 1`."
        ) from error


def _check(client: "Client", address: str) -> None:
    """Raise UserError unless every worker imports homegrown and has the versions of this machine."""
    for worker, answer in client.run(check, facts(), on_error="return").items():
        if isinstance(answer, UserError):
            raise answer
        if isinstance(answer, BaseException):
            raise UserError(
                f"The worker {worker} of {address} cannot import this homegrown ({answer}); install the same version "
                "there."
            ) from answer


def _is_seen(client: "Client", folder: Path) -> bool:
    """Return whether every worker sees a file written to a folder of this machine."""
    mark = folder / "seen" / uuid.uuid4().hex
    with replacing(mark) as temporary:
        temporary.touch()
    try:
        return all(client.run(_exists, str(mark)).values())
    finally:
        mark.unlink()


# --- on a worker ------------------------------------------------------------------------------------------------------


def run_shard(function: Callable[..., Any], what: tuple[Any, ...] | Parcel, expected: Facts) -> Any:
    """Call a shard's function on a worker with the expected code and library versions."""
    from distributed import get_worker

    _limit_threads(get_worker().state.nthreads)
    check(expected)
    return through_store.run(function, what) if isinstance(what, Parcel) else function(*what)


@functools.cache
def _limit_threads(threads: int) -> None:
    """Limit the threads of this process's libraries to those of the worker; Dask sets OMP_NUM_THREADS=1 itself."""
    import pyarrow as pa

    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
    pa.set_cpu_count(threads)
    spin_less()


@functools.cache
def check(expected: Facts) -> None:
    """Raise UserError if the code or libraries of this process are not the expected ones."""
    there = dict(expected)
    here = dict(facts(there.get("code of", "")))
    wrong = [name for name in sorted(here | there) if here.get(name) != there.get(name)]
    if wrong:
        found = ", ".join(f"{name} {here.get(name, 'absent')} instead of {there.get(name, 'none')}" for name in wrong)
        raise UserError(
            f"The worker on {platform.node()} has other versions than this machine: {found:.300}; install the same "
            "versions there."
        )


def facts(module: str = "") -> Facts:
    """Return what determines the output bytes: versions of libraries, and the code that a module reaches."""
    versions = libraries()
    versions["python"] = versions["python"].rpartition(".")[0]
    if module.startswith("homegrown."):
        versions |= {"code of": module, "code": code_fingerprint([module])[:16]}
    return tuple(versions.items())


def _exists(path: str) -> bool:
    return Path(path).exists()
