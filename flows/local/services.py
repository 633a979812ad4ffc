"""The server, workers and deployments of one machine, which `homegrown up` starts and stops."""

import os
import platform
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import httpx
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists, PrefectHTTPStatusError
from prefect.workers.process import ProcessWorker
from pydantic import BaseModel, ConfigDict, ValidationError

from flows.local import automation, children, server, server_database, server_log, server_owner, server_users
from flows.local.deployment_file import Checked
from flows.local.removal import remove_deleted
from homegrown.config.pipelines import PIPELINES
from homegrown.reporting.numbers import file_size
from homegrown.util import locks
from homegrown.util.errors import UserError
from homegrown.util.files import replacing

_POOL_TYPE = "process"
_FACTS = "up.json"
_RESTARTS = 3
_RESTARTS_SECONDS = 600.0
_RUN_STOP_SECONDS = 40.0
"""Time for runs to stop: they finish a step and write a checkpoint."""
_OWN_END_SECONDS = 15.0
"""Time for processes whose parent died to end by themselves."""
_WORKER_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.5
_READ_LOG_SECONDS = 15.0
_LOOK_SECONDS = 300.0
_LOOK_AFTER_RESTART_SECONDS = 30.0
"""When to look for runs that stand still: longer than the silence that a run is allowed."""

Report = Callable[[str], None]


class UpFacts(BaseModel):
    """Facts of a running `homegrown up`, in `<store>/.state/up.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    process: int
    api: str
    own_server: bool


@dataclass
class Service:
    """A child process that is restarted a few times when it dies."""

    name: str
    arguments: Sequence[str]
    log: Path
    tied: bool = True
    """Whether the kernel ends it with this process."""
    process: "subprocess.Popen[bytes]" = field(init=False)
    _restarts: list[float] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start the process."""
        self.process = children.start(self.arguments, self.log, tied=self.tied)

    def died(self) -> str | None:
        """Return a message if the process has ended, and count it; return None if it runs.

        Raises:
            UserError: it has ended too often in the last minutes.
        """
        code = self.process.poll()
        if code is None:
            return None
        now = time.monotonic()
        self._restarts = [*(at for at in self._restarts if now - at < _RESTARTS_SECONDS), now]
        ended, log = f"The {self.name} ended ({_ending(code)})", _short(self.log)
        if len(self._restarts) > _RESTARTS:
            raise UserError(f"{ended} {_RESTARTS + 1} times within ten minutes; see the end of {log}.")
        return f"{ended}; restarting it (see {log})."


class Machine:
    """The running services of one project folder."""

    def __init__(self, state: Path, checked: Checked, file: Path, report: Report, user: Path) -> None:
        self.api = server.address()
        self._user = user
        self._state = state
        self._checked = checked
        self._file = file
        self._report = report
        self._server: Service | None = None
        self._workers: list[Service] = []
        self._look_next = time.monotonic() + _LOOK_SECONDS

    @property
    def own_server(self) -> bool:
        """Whether the server was started here and ends with this."""
        return self._server is not None

    def start(self) -> None:
        """Start the missing services and make the deployments those of the file.

        Raises:
            UserError: a service did not start.
        """
        with server_users.gate(self._user.parent):
            if server.answers(self.api):
                server_owner.check(self.api, may_choose=False)
            else:
                arguments, log = server.command(self.api), server.log_of(self._state)
                if sizes := server_database.compact():
                    self._report(f"Compacted Prefect's database from {file_size(sizes[0])} to {file_size(sizes[1])}.")
                self._report("Starting the Prefect server; this takes up to a minute.")
                server_log.start_anew(log)
                self._server = Service("Prefect server", arguments, log, tied=False)
                server.wait(self._server.process, self.api, log)
        with get_client(sync_client=True) as client:
            try:
                limits = {pool: _ensure_pool(client, pool) for pool in self._checked.pools}
                automation.ensure(client)
                self._resume_dead_runs(client)
                automation.watch_runs_in_progress(client)
                for message in remove_deleted(client, Path.cwd(), self._checked.schedules, self._file):
                    self._report(message)
            except PrefectHTTPStatusError as error:
                raise UserError(server.refused(self.api, error)) from error
        self._report(f"Deploying {self._file}.")
        deploying = children.start(
            ["-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(self._file)], self._deploy_log
        )
        try:
            name = f"{platform.node()}-{Path.cwd().name}"
            for pool in self._checked.pools:
                arguments = ["-m", "prefect", "worker", "start", "--pool", pool, "--type", _POOL_TYPE, "--name", name]
                arguments += ["--limit", str(limits[pool])]
                self._workers.append(Service("worker", arguments, self._state / f"worker-{pool}.log"))
            if deploying.wait() != 0:
                raise UserError(f"{self._file} could not be deployed; see the end of {_short(self._deploy_log)}.")
        finally:
            children.stop(deploying, 0)

    def watch(self) -> None:
        """Restart services and runs that die, rotate logs and report errors that repeat in the server's log, forever.

        Raises:
            UserError: a service dies repeatedly.
        """
        reported: set[str] = set()
        read_next = time.monotonic()
        while True:
            time.sleep(_POLL_SECONDS)
            if time.monotonic() >= read_next:
                read_next = time.monotonic() + _READ_LOG_SECONDS
                for log in self._state.glob("*.log"):
                    server_log.rotate(log)
                for error in server_log.repeated_errors(server.log_of(self._state)):
                    if error.message not in reported:
                        reported.add(error.message)
                        self._report(str(error))
            if time.monotonic() >= self._look_next:
                self._look_next = time.monotonic() + _LOOK_SECONDS
                self._look_after_runs(timedelta(seconds=_LOOK_SECONDS))
            for service in self._services:
                if message := service.died():
                    self._report(message)
                    self._restart(service)

    def stop(self, patience: float = 1.0) -> None:
        """End the runs in progress, then the workers, then the server unless others use it; `patience` 0 kills them.

        The runs come first because a stopping worker kills its runs before they can report their end to the server.
        Meanwhile the workers stand still, or they would take the next runs that wait.
        """
        if self._workers and patience:
            self._report("Stopping; runs in progress write a checkpoint. Ctrl-C again kills them.")
        for worker in self._workers:
            worker.process.send_signal(signal.SIGSTOP)
        unbegun = self._unbegun_runs() if self._workers else {}
        for worker in self._workers:
            children.end_children(worker.process.pid, _RUN_STOP_SECONDS * patience)
            children.stop(worker.process, _WORKER_STOP_SECONDS * patience)
        self._end_orphans(_RUN_STOP_SECONDS * patience)
        if self._workers:
            self._end_dead_runs(unbegun)
        if self._server:
            with server_users.gate(self._user.parent):
                if server_users.is_used(self._user.parent, besides=self._user):
                    self._report(f"The Prefect server keeps running until the last run that uses {self.api} ends.")
                else:
                    children.stop(self._server.process, server_users.STOP_SECONDS * patience)
            self._end_orphans(server_users.STOP_SECONDS * patience)

    def _restart(self, service: Service) -> None:
        if service not in self._workers:
            self._end_orphans(server_users.STOP_SECONDS)
            service.start()
            self._look_next = time.monotonic() + _LOOK_AFTER_RESTART_SECONDS
            return
        # The kernel has sent SIGTERM to its runs (`children.end_with_worker`), which now stop.
        died = datetime.now(UTC) - timedelta(seconds=2 * _POLL_SECONDS)
        self._end_orphans(_RUN_STOP_SECONDS, wait=_OWN_END_SECONDS)
        if server.answers(self.api):
            with suppress(httpx.HTTPError, PrefectHTTPStatusError), get_client(sync_client=True) as client:
                self._resume_dead_runs(client, died)
        service.start()
        self._look_after_runs(timedelta(0) if self.own_server else timedelta(seconds=_LOOK_SECONDS))

    def _resume_dead_runs(self, client: SyncPrefectClient, since: datetime | None = None) -> None:
        local, locks_of_runs = server_owner.is_local(self.api), self._state / "runs"
        for name in automation.resume_dead_runs(client, Path.cwd(), locks_of_runs, local=local, since=since):
            self._report(f"The run {name} was killed; it resumes.")

    def _unbegun_runs(self) -> dict[UUID, int]:
        if not server.answers(self.api):
            return {}
        with suppress(httpx.HTTPError, PrefectHTTPStatusError), get_client(sync_client=True) as client:
            return automation.unbegun_runs(client, Path.cwd())
        return {}

    def _end_dead_runs(self, unbegun: dict[UUID, int]) -> None:
        if not server.answers(self.api):
            return
        with suppress(httpx.HTTPError, PrefectHTTPStatusError), get_client(sync_client=True) as client:
            local, locks_of_runs = server_owner.is_local(self.api), self._state / "runs"
            automation.end_dead_runs(client, Path.cwd(), locks_of_runs, unbegun, local=local)

    def _look_after_runs(self, unstarted: timedelta) -> None:
        """Find runs whose process died unnoticed: what they reported was lost with a server, a worker or a full disk.

        Those that a worker took so long ago, and that never began, start again.
        """
        if not server.answers(self.api):
            return
        with suppress(httpx.HTTPError, PrefectHTTPStatusError), get_client(sync_client=True) as client:
            automation.watch_runs_in_progress(client)
            automation.restart_unstarted(client, self._checked.pools, unstarted)

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
def running(state: Path, checked: Checked, file: Path, report: Report) -> Iterator[Machine]:
    """Run all services for the block; call this in the main thread.

    Args:
        state: Folder for logs and for the facts of this process.
        checked: The deployments and work pools of the deployment file.
        file: The deployment file.
        report: Called with messages for the user.

    Raises:
        UserError: services of this folder, or of another with the same server, run already; or one did not start.
        KeyboardInterrupt: on SIGINT, SIGTERM or SIGHUP; a second signal kills what is still stopping.
    """
    users = server_users.folder_of(server.address())
    with _alone(state), _alone_at(users), _interruptible(), server_users.registered(users) as user:
        children.adopt_orphans()
        machine = Machine(state, checked, file, report, user)
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
    """Return the facts of this folder's `homegrown up`, or None if it does not run."""
    if locks.is_free(_lock(state)):
        return None
    try:
        return UpFacts.model_validate_json((state / _FACTS).read_bytes())
    except (OSError, ValidationError):  # still starting
        return None


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    if not locks.try_acquire(_lock(state)):
        raise UserError(
            f"`homegrown up` already runs for {state.parent}; see `homegrown status`, and stop it by Ctrl-C in its "
            "terminal."
        )
    try:
        (state / _FACTS).unlink(missing_ok=True)
        yield
    finally:
        (state / _FACTS).unlink(missing_ok=True)
        locks.release(_lock(state))


@contextmanager
def _alone_at(users: Path) -> Iterator[None]:
    """Refuse a second folder at one server: the deployments of both would replace each other."""
    if not locks.try_acquire(users / "up"):
        raise UserError(
            f"`homegrown up` of another folder already uses the Prefect server at {server.address()}; stop it, or "
            "choose another address with PREFECT_API_URL=http://127.0.0.1:PORT/api."
        )
    try:
        yield
    finally:
        locks.release(users / "up")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise KeyboardInterrupt, as SIGINT does."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)


def _lock(state: Path) -> Path:
    return state / "locks" / "up"


def _ensure_pool(client: SyncPrefectClient, name: str) -> int:
    """Create a work pool if it is missing; return how many runs this machine executes at once for it.

    That is the limit of the pool, or 1: the runs of a machine share its processors and its GPU.
    """
    template = ProcessWorker.get_default_base_job_template()
    try:
        client.create_work_pool(WorkPoolCreate(name=name, type=_POOL_TYPE, base_job_template=template))
        return 1
    except ObjectAlreadyExists:
        found = client.read_work_pool(name)
        if found.type != _POOL_TYPE:
            raise UserError(
                f"The work pool {name!r} of {server.address()} has the type {found.type}, not {_POOL_TYPE}; name "
                f"another in {PIPELINES}, or run `prefect work-pool delete {name}`."
            ) from None
        return found.concurrency_limit or 1


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _ending(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
