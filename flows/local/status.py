"""The server, workers, deployments and runs, as `homegrown status` shows them."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterTaskRunId,
    ArtifactFilterType,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import ArtifactSort, FlowRunSort
from prefect.exceptions import PrefectHTTPStatusError
from pydantic import TypeAdapter

from flows import AUTHOR_TAG
from flows.local import server, server_log, server_owner, services
from homegrown.util.errors import UserError

_RECENT = 10
_IN_PROGRESS = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING, StateType.PAUSED]
_ENDED = [StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED, StateType.CRASHED]


@dataclass(frozen=True)
class WorkerStatus:
    """A worker and its last heartbeat."""

    name: str
    pool: str
    online: bool
    heard: datetime | None


@dataclass(frozen=True)
class Place:
    """The current stage of a run, with its progress in percent and in words."""

    stage: str
    percent: float | None
    words: str | None


@dataclass(frozen=True)
class RunStatus:
    """A run: its state and, while it is in progress, its current stage."""

    name: str
    deployment: str | None
    state: str
    message: str | None
    started: datetime | None
    seconds: float
    url: str
    author: str | None = None
    """The user whose process it was; None before its start."""
    place: Place | None = None


@dataclass(frozen=True)
class Status:
    """The state of the server; only the address if none answers."""

    api: str
    answers: bool
    up: int | None
    """Process id of this folder's `homegrown up`."""
    workers: list[WorkerStatus] = field(default_factory=list)
    deployments: list[str] = field(default_factory=list)
    waiting: int = 0
    """Number of scheduled runs."""
    in_progress: list[RunStatus] = field(default_factory=list)
    recent: list[RunStatus] = field(default_factory=list)
    """Ended runs, newest first."""
    errors: list[str] = field(default_factory=list)
    """Errors that repeat in the log of the server that this folder started last."""
    owner: str | None = None
    """The other user whose server it is; None for one's own, and for one of another machine."""

    def as_json(self) -> str:
        """Return the status as JSON, with times in ISO 8601."""
        return TypeAdapter(Status).dump_json(self, indent=2).decode()


def read_status(state: Path) -> Status:
    """Return the status of the configured server; `state` is the folder with the facts of `homegrown up`.

    Raises:
        UserError: the server requires a password that is missing or wrong.
    """
    api = server.address()
    facts = services.up_facts(state)
    up = facts.process if facts else None
    errors = [str(error) for error in server_log.repeated_errors(server.log_of(state))]
    if not server.answers(api):
        return Status(api, answers=False, up=up, errors=errors)
    try:
        with get_client(sync_client=True) as client:
            return replace(_read(client, api, up), errors=errors, owner=server_owner.other_user(api))
    except PrefectHTTPStatusError as error:
        raise UserError(server.refused(api, error)) from error


def _read(client: SyncPrefectClient, api: str, up: int | None) -> Status:
    flows = {flow.id: flow.name for flow in client.read_flows()}
    deployments = {one.id: f"{flows[one.flow_id]}/{one.name}" for one in client.read_deployments()}
    running = _runs(client, _IN_PROGRESS, FlowRunSort.EXPECTED_START_TIME_DESC)
    ended = _runs(client, _ENDED, FlowRunSort.END_TIME_DESC)
    ui = api.removesuffix("/api")
    return Status(
        api,
        answers=True,
        up=up,
        workers=[
            WorkerStatus(worker.name, pool.name, worker.status.value == "ONLINE", worker.last_heartbeat_time)
            for pool in client.read_work_pools()
            for worker in client.read_workers_for_work_pool(pool.name)
        ],
        deployments=sorted(deployments.values()),
        waiting=len(_runs(client, [StateType.SCHEDULED], FlowRunSort.EXPECTED_START_TIME_ASC, limit=200)),
        in_progress=[_run(run, deployments, ui, _place(client, run)) for run in running],
        recent=[_run(run, deployments, ui) for run in ended],
    )


def _runs(client: SyncPrefectClient, states: list[StateType], sort: FlowRunSort, limit: int = _RECENT) -> list[FlowRun]:
    of_state = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states)))
    return client.read_flow_runs(flow_run_filter=of_state, sort=sort, limit=limit)


def _run(run: FlowRun, deployments: dict[UUID, str], ui: str, place: Place | None = None) -> RunStatus:
    return RunStatus(
        name=run.name,
        deployment=deployments.get(run.deployment_id) if run.deployment_id else None,
        state=run.state_name or "",
        message=(run.state.message if run.state else None) or None,
        started=run.start_time,
        seconds=round(run.estimated_run_time.total_seconds(), 1),
        url=f"{ui}/runs/flow-run/{run.id}",
        author=next((tag.removeprefix(AUTHOR_TAG) for tag in run.tags if tag.startswith(AUTHOR_TAG)), None),
        place=place,
    )


def _place(client: SyncPrefectClient, run: FlowRun) -> Place | None:
    """Return the current stage of a run with its last reported progress."""
    tasks = client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])),
        task_run_filter=TaskRunFilter(
            state=TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.RUNNING])),
        ),
    )
    if not tasks:
        return None
    task = max(tasks, key=lambda one: one.start_time or datetime.min.replace(tzinfo=UTC))
    posted = client.read_artifacts(
        artifact_filter=ArtifactFilter(
            task_run_id=ArtifactFilterTaskRunId(any_=[task.id]), type=ArtifactFilterType(any_=["progress"])
        ),
        sort=ArtifactSort.UPDATED_DESC,
        limit=1,
    )
    stage = task.name.rpartition("-")[0] or task.name
    if not posted:
        return Place(stage, None, None)
    return Place(stage, float(str(posted[0].data)), posted[0].description)
