"""The automations that mark a silent run as crashed and start a killed run again, and the ends of dead runs."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.events import emit_event
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture
from prefect.events.worker import EventsWorker
from prefect.states import AwaitingRetry, Cancelled, Crashed, Scheduled

from flows.local.children import KILLED
from flows.local.prefect_internals import ABORTED
from flows.local.removal import all_pages, is_of
from homegrown.util import locks

SILENCE = timedelta(seconds=90)
"""Three heartbeats (setting flows.heartbeat_frequency, 30 s, the shortest that Prefect allows)."""

ATTEMPTS = 3
"""Maximum attempts at a run of a deployment whose process is repeatedly killed."""

_RECENTLY = timedelta(hours=1)
_SILENT = "No heartbeat for 90 s"
# A worker's messages about a run that SIGABRT, SIGBUS, SIGKILL or SIGSEGV ended.
_KILLED = [f"Process exited with status code: {code}.*" for code in (-6, -7, -9, -11)]
_STOPPED = "Stopped with `homegrown up`; run it again to resume."
_EXPECTED = ("Running", "Completed", "Failed", "Cancelled", "Crashed", "Paused", "Suspended")
_HEARTBEAT = "prefect.flow-run.heartbeat"

CRASH_SILENT_RUNS = AutomationCore(
    name="homegrown: crash silent runs",
    description="Marks a run in progress without a heartbeat for 90 s as crashed.",
    trigger=EventTrigger(
        after={_HEARTBEAT},
        expect={_HEARTBEAT, *(f"prefect.flow-run.{state}" for state in _EXPECTED)},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=SILENCE,
    ),
    actions=[
        ChangeFlowRunState(
            name="Crashed",
            state=StateType.CRASHED,
            message=f"{_SILENT}; run it again to resume.",
            force=False,
        )
    ],
)

# A run that a signal stopped reports that itself and is not retried.
RETRY_KILLED_RUNS = AutomationCore(
    name="homegrown: retry killed runs",
    description=f"Starts a killed run of a deployment again, up to {ATTEMPTS} attempts.",
    trigger=EventTrigger(
        expect={"prefect.flow-run.Crashed"},
        match={
            "prefect.resource.id": "prefect.flow-run.*",
            "prefect.run-count": [str(attempt) for attempt in range(1, ATTEMPTS)],
            "prefect.state-message": [*_KILLED, f"{_SILENT}*", f"{KILLED}*"],
        },
        match_related={"prefect.resource.id": "prefect.deployment.*", "prefect.resource.role": "deployment"},
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
    ),
    actions=[
        ChangeFlowRunState(
            name="AwaitingRetry",
            state=StateType.SCHEDULED,
            message="Its process was killed; the run resumes.",
            force=False,
        )
    ],
)


def ensure(client: SyncPrefectClient) -> None:
    """Create or update the automations; a paused one stays paused."""
    for automation in (CRASH_SILENT_RUNS, RETRY_KILLED_RUNS):
        found = client.read_automations_by_name(automation.name)
        if not found:
            client.create_automation(automation)
        elif not _is_same(found[0], automation):
            client.update_automation(found[0].id, automation.model_copy(update={"enabled": found[0].enabled}))


def resume_dead_runs(
    client: SyncPrefectClient, project: Path, locks_of_runs: Path, *, local: bool, since: datetime | None = None
) -> list[str]:
    """Start the runs of a project's deployments again that died with an earlier worker; return their names.

    The automation would start them minutes later: it waits for their silence, and after a restart of the server up to
    15 minutes for an event that nobody sends any more.

    Args:
        client: Client of the server.
        project: The project's folder, for which no worker runs.
        locks_of_runs: Folder of the locks of runs, which the kernel releases when their processes die.
        local: Whether the server has no runs of other machines.
        since: When the worker died: the kernel then ended its runs by a signal, which most of them reported.
    """
    dead = list(_dead_runs(client, project, locks_of_runs, local=local))
    if since is not None:
        dead += [
            run
            for run in _runs(client, project, [StateType.CRASHED])
            if run.state and run.state.timestamp >= since and str(run.state.message).startswith(ABORTED)
        ]
    resumed = []
    for run in dead:
        if run.run_count < ATTEMPTS:
            client.set_flow_run_state(run.id, AwaitingRetry(message=f"{KILLED}; it resumes."), force=True)
            resumed.append(run.name)
    return resumed


def unbegun_runs(client: SyncPrefectClient, project: Path) -> dict[UUID, int]:
    """Return the attempts so far of the runs of a project's deployments that a worker took and that have not begun."""
    return {run.id: run.run_count for run in _runs(client, project, [StateType.PENDING])}


def end_dead_runs(
    client: SyncPrefectClient,
    project: Path,
    locks_of_runs: Path,
    unbegun: dict[UUID, int],
    *,
    local: bool,
) -> None:
    """Report the end of the runs of a project's deployments whose processes died with their worker, unreported.

    A run that had not begun is scheduled again, also where its worker reported that it crashed.

    Args:
        client: Client of the server.
        project: The project's folder.
        locks_of_runs: Folder of the locks of runs.
        unbegun: What `unbegun_runs` returned before the worker died.
        local: Whether the server has no runs of other machines.
    """
    dead = {run.id: run for run in _dead_runs(client, project, locks_of_runs, local=local)}
    for run in dead.values():
        if run.state_type is StateType.PENDING:
            continue
        end: State[Any] = Cancelled() if run.state_type is StateType.CANCELLING else Crashed(message=_STOPPED)
        end_task_runs(client, run.id, end)
        client.set_flow_run_state(run.id, end, force=True)
    again = {run.id for run in dead.values() if run.state_type is StateType.PENDING}
    for one, attempts in unbegun.items():
        run = client.read_flow_run(one)
        if run.state_type is StateType.CRASHED and run.run_count == attempts:
            again.add(one)
    for one in again:
        _schedule(client, one)


def end_task_runs(client: SyncPrefectClient, run: UUID, state: State[Any]) -> None:
    """End the task runs of a run that have not ended; those that a signal ended become Cancelled with it."""
    for one in client.read_task_runs(flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [run]}})):
        stopped = one.state and one.state.is_crashed() and str(one.state.message).startswith(ABORTED)
        if one.state is None or not one.state.is_final() or (stopped and state.is_cancelled()):
            client.set_task_run_state(one.id, state, force=True)


def _dead_runs(client: SyncPrefectClient, project: Path, locks_of_runs: Path, *, local: bool) -> Iterator[FlowRun]:
    """Yield the runs under way of a project's deployments whose processes are dead."""
    for run in _runs(client, project, [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]):
        lock = locks_of_runs / str(run.id)
        if locks.is_free(lock) if lock.exists() else local and not _lives(run.infrastructure_pid):
            yield run


def _runs(client: SyncPrefectClient, project: Path, states: list[StateType]) -> list[FlowRun]:
    ours = [one.id for one in all_pages(client.read_deployments) if is_of(one, project)]
    wanted = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=ours),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states)),
    )
    return client.read_flow_runs(flow_run_filter=wanted) if ours else []


def _schedule(client: SyncPrefectClient, run: UUID, message: str = "Its process never started.") -> None:
    state: State[Any] = Scheduled(message=message)
    client.set_flow_run_state(run, state, force=True)


def _lives(pid: str | None) -> bool:
    """Return whether the process that a worker started for a run is alive; after a reboot, another may have its id."""
    if pid is None:
        return False
    try:
        return "prefect" in " ".join(psutil.Process(int(pid.rpartition(":")[2])).cmdline())
    except (psutil.Error, ValueError):
        return False


def watch_runs_in_progress(client: SyncPrefectClient) -> None:
    """Let the automation mark runs as crashed that died with an earlier server or worker.

    The automation counts from the last heartbeat that this server received. So this sends one heartbeat for every run
    in progress; live runs send the next ones themselves. Pending runs send none: see `restart_unstarted`.
    """
    in_progress = [StateType.RUNNING, StateType.CANCELLING]
    state = FlowRunFilterState(type=FlowRunFilterStateType(any_=in_progress))
    for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=state)):
        emit_event(_HEARTBEAT, {"prefect.resource.id": f"prefect.flow-run.{run.id}", "prefect.resource.name": run.name})
    EventsWorker.drain_all(timeout=30)


def restart_unstarted(client: SyncPrefectClient, pools: Sequence[str], age: timedelta = timedelta(0)) -> None:
    """Schedule the runs again that a worker of these pools took, at least `age` ago, and whose process never reported.

    A pending run sends no heartbeat, so no automation would notice that its process or its worker died. A run whose
    start failed, for example because the server was away or too busy, crashed without an attempt: it is scheduled again
    too, unless that has happened three times.
    """
    pending = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PENDING])))
    for run in client.read_flow_runs(flow_run_filter=pending):
        since = run.state.timestamp if run.state else None
        if run.work_pool_name in pools and since is not None and datetime.now(UTC) - since >= age:
            _schedule(client, run.id)
    crashed = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CRASHED])),
        start_time=FlowRunFilterStartTime.model_validate({"after_": datetime.now(UTC) - _RECENTLY}),
    )
    for run in client.read_flow_runs(flow_run_filter=crashed):
        if run.work_pool_name in pools and run.run_count == 0:
            if sum(one.is_crashed() for one in client.read_flow_run_states(run.id)) < ATTEMPTS:
                _schedule(client, run.id, "Its start failed.")


def _is_same(found: Automation, other: AutomationCore) -> bool:
    ignored = {"id", "enabled"}
    sent = AutomationCore.model_validate(other.model_dump(mode="json"))
    return found.model_dump(exclude=ignored) == sent.model_dump(exclude=ignored)
