"""The automation by which the server marks a run as crashed when nothing has been heard of it for a while."""

from datetime import timedelta

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.events import emit_event
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture
from prefect.events.worker import EventsWorker

SILENCE = timedelta(seconds=90)
"""Three heartbeats (setting flows.heartbeat_frequency, 30 s, the shortest that Prefect allows)."""

_EXPECTED = ("Running", "Completed", "Failed", "Cancelled", "Crashed", "Paused", "Suspended")
_HEARTBEAT = "prefect.flow-run.heartbeat"

CRASH_SILENT_RUNS = AutomationCore(
    name="homegrown: crash silent runs",
    description="A run that has sent no heartbeat for 90 s, and has not ended, is marked as crashed.",
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
            message="Nothing was heard of this run for 90 s; run it again and it goes on where it was.",
            force=False,
        )
    ],
)


def ensure(client: SyncPrefectClient) -> None:
    """Create the automation, or bring the one of its name up to date; one that a person has paused stays so."""
    found = client.read_automations_by_name(CRASH_SILENT_RUNS.name)
    if not found:
        client.create_automation(CRASH_SILENT_RUNS)
    elif not _is_same(found[0]):
        client.update_automation(found[0].id, CRASH_SILENT_RUNS.model_copy(update={"enabled": found[0].enabled}))


def watch_runs_in_progress(client: SyncPrefectClient) -> None:
    """Have the automation mark those runs as crashed that ended with an earlier server or worker, unheard.

    It counts from the last heartbeat that this server has seen itself, and soon forgets the old ones. So one is sent
    for every run that is said to be in progress; those that are alive send the next themselves.
    """
    in_progress = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    state = FlowRunFilterState(type=FlowRunFilterStateType(any_=in_progress))
    for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=state)):
        emit_event(_HEARTBEAT, {"prefect.resource.id": f"prefect.flow-run.{run.id}", "prefect.resource.name": run.name})
    EventsWorker.drain_all(timeout=30)


def _is_same(found: Automation) -> bool:
    ignored = {"id", "enabled"}
    wanted = AutomationCore.model_validate(CRASH_SILENT_RUNS.model_dump(mode="json"))
    return found.model_dump(exclude=ignored) == wanted.model_dump(exclude=ignored)
