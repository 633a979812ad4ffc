"""What a single machine needs to run pipelines (server, worker, deployments): what `homegrown up` starts and stops."""

import os
import platform
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists, PrefectHTTPStatusError
from prefect.workers.process import ProcessWorker
from pydantic import BaseModel, ConfigDict, ValidationError

from flows.local import automation, children, server
from homegrown.config.pipelines import PIPELINES
from homegrown.util import locks
from homegrown.util.errors import UserError
from homegrown.util.files import replacing

_POOL_TYPE = "process"
_FACTS = "up.json"
_RESTARTS = 3
_RESTARTS_SECONDS = 600.0
_RUN_STOP_SECONDS = 40.0
"""How long runs that are stopped may take: they finish a step and write a checkpoint."""
_OWN_END_SECONDS = 15.0
"""How long processes whose parent has died may take to end by themselves."""
_REPORT_SECONDS = 1.0
"""Time for a worker to tell the server how its runs ended."""
_WORKER_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.5

Say = Callable[[str], None]


class UpFacts(BaseModel):
    """What a running `homegrown up` says of itself, in `<store>/.state/up.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    process: int
    api: str
    own_server: bool


@dataclass
class Service:
    """A child process that is started again when it dies, a few times."""

    name: str
    arguments: Sequence[str]
    log: Path
    process: "subprocess.Popen[bytes]" = field(init=False)
    _revived: list[float] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start the process."""
        self.process = children.start(self.arguments, self.log)

    def died(self) -> str | None:
        """Say in a sentence that the process has ended, if it has; count it.

        Raises:
            UserError: it has ended too often of late.
        """
        code = self.process.poll()
        if code is None:
            return None
        now = time.monotonic()
        self._revived = [*(at for at in self._revived if now - at < _RESTARTS_SECONDS), now]
        ended, log = f"The {self.name} ended ({_ending(code)})", _short(self.log)
        if len(self._revived) > _RESTARTS:
            raise UserError(f"{ended}, for the {_RESTARTS + 1}th time within ten minutes: see the end of {log}.")
        return f"{ended}; it is started again (see {log})."


class Machine:
    """The services of one project folder, while they run."""

    def __init__(self, state: Path, pools: Sequence[str], file: Path, say: Say) -> None:
        self.api = server.address()
        self._state = state
        self._pools = pools
        self._file = file
        self._say = say
        self._server: Service | None = None
        self._workers: list[Service] = []

    @property
    def own_server(self) -> bool:
        """Whether the server was started here, and ends with this."""
        return self._server is not None

    def start(self) -> None:
        """Start what is missing, and deploy every pipeline of the file.

        Raises:
            UserError: something could not be started.
        """
        if not server.answers(self.api):
            log = self._state / "server.log"
            self._server = Service("Prefect server", server.command(self.api), log)
            server.wait(self._server.process, self.api, log)
        with get_client(sync_client=True) as client:
            try:
                for pool in self._pools:
                    _ensure_pool(client, pool)
                automation.ensure(client)
                automation.watch_runs_in_progress(client)
            except PrefectHTTPStatusError as error:
                raise UserError(server.refused(self.api, error)) from error
        deploying = children.start(
            ["-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(self._file)], self._deploy_log
        )
        try:
            name = f"{platform.node()}-{Path.cwd().name}"
            for pool in self._pools:
                arguments = ["-m", "prefect", "worker", "start", "--pool", pool, "--type", _POOL_TYPE, "--name", name]
                self._workers.append(Service("worker", arguments, self._state / f"worker-{pool}.log"))
            if deploying.wait() != 0:
                raise UserError(f"{self._file} could not be deployed: see the end of {_short(self._deploy_log)}.")
        finally:
            children.stop(deploying, 0)

    def watch(self) -> None:
        """Look after the services for ever; start again what dies.

        Raises:
            UserError: a service dies again and again.
        """
        while True:
            time.sleep(_POLL_SECONDS)
            for service in self._services:
                if sentence := service.died():
                    self._say(sentence)
                    self._revive(service)

    def stop(self, patience: float = 1.0) -> None:
        """End the runs in progress, then the workers, then the server; with a `patience` of 0 kill them all.

        The runs come first because a worker that is told to stop kills its own, before they can say so to the server.
        """
        if self._workers and patience:
            self._say("Stopping: runs in progress are told to write a checkpoint; Ctrl-C again kills them.")
        for worker in self._workers:
            if children.end_children(worker.process.pid, _RUN_STOP_SECONDS * patience):
                time.sleep(_REPORT_SECONDS * patience)
            children.stop(worker.process, _WORKER_STOP_SECONDS * patience)
        self._end_orphans(_RUN_STOP_SECONDS * patience)
        if self._server:
            children.stop(self._server.process, server.STOP_SECONDS * patience)
            self._end_orphans(server.STOP_SECONDS * patience)

    def _revive(self, service: Service) -> None:
        if service not in self._workers:
            self._end_orphans(server.STOP_SECONDS)
            service.start()
            return
        # Its runs have been told by the kernel to end (`children.end_with_worker`), and are at it.
        self._end_orphans(_RUN_STOP_SECONDS, wait=_OWN_END_SECONDS)
        service.start()
        with get_client(sync_client=True) as client, suppress(httpx.HTTPError):
            automation.watch_runs_in_progress(client)

    @property
    def _services(self) -> list[Service]:
        return [*([self._server] if self._server else []), *self._workers]

    @property
    def _deploy_log(self) -> Path:
        return self._state / "deploy.log"

    def _end_orphans(self, seconds: float, wait: float = 0.0) -> None:
        known = {service.process.pid for service in self._services if service.process.poll() is None}
        children.end_children(os.getpid(), seconds, besides=known, wait=wait)


@contextmanager
def running(state: Path, pools: Sequence[str], file: Path, say: Say) -> Iterator[Machine]:
    """Have everything run for the block, and nothing of it afterwards; call it in the main thread.

    Args:
        state: Folder for logs, and for what says that this runs.
        pools: Names of the work pools.
        file: The deployment file.
        say: Called with a sentence for the user.

    Raises:
        UserError: this folder's services run already, or something could not be started.
        KeyboardInterrupt: SIGINT, SIGTERM or SIGHUP came; a second one kills what still takes its time to stop.
    """
    with _alone(state), _interruptible():
        children.adopt_orphans()
        machine = Machine(state, pools, file, say)
        try:
            machine.start()
            facts = UpFacts(process=os.getpid(), api=machine.api, own_server=machine.own_server)
            with replacing(state / _FACTS) as temporary:
                temporary.write_text(facts.model_dump_json() + "\n")
            yield machine
        finally:
            try:
                machine.stop()
            except KeyboardInterrupt:
                machine.stop(patience=0)


def up_facts(state: Path) -> UpFacts | None:
    """Return what a `homegrown up` of this folder says of itself; None where none runs."""
    if locks.is_free(_lock(state)):
        return None
    try:
        return UpFacts.model_validate_json((state / _FACTS).read_bytes())
    except (OSError, ValidationError):  # it is just starting
        return None


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    if not locks.try_acquire(_lock(state)):
        raise UserError(
            f"`homegrown up` runs already for this folder: {state.parent} (see `homegrown status`; Ctrl-C in its "
            "terminal stops it)."
        )
    try:
        (state / _FACTS).unlink(missing_ok=True)
        yield
    finally:
        (state / _FACTS).unlink(missing_ok=True)
        locks.release(_lock(state))


@contextmanager
def _interruptible() -> Iterator[None]:
    """Have the signals that ask a process to end raise KeyboardInterrupt, as SIGINT does."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _lock(state: Path) -> Path:
    return state / "locks" / "up"


def _ensure_pool(client: SyncPrefectClient, name: str) -> None:
    template = ProcessWorker.get_default_base_job_template()
    try:
        client.create_work_pool(WorkPoolCreate(name=name, type=_POOL_TYPE, base_job_template=template))
    except ObjectAlreadyExists:
        found = client.read_work_pool(name)
        if found.type != _POOL_TYPE:
            raise UserError(
                f"The work pool {name!r} of {server.address()} is of type {found.type}, and a worker of this machine "
                f"serves {_POOL_TYPE}: name another in {PIPELINES}, or `prefect work-pool delete {name}`."
            ) from None


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _ending(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
