"""The automations that mark a silent run as crashed and start a killed run again."""

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

ATTEMPTS = 3
"""Maximum attempts at a run of a deployment whose process is repeatedly killed."""

_SILENT = "No heartbeat for 90 s"
# A worker's messages about a run that SIGABRT, SIGBUS, SIGKILL or SIGSEGV ended.
_KILLED = [f"Process exited with status code: {code}.*" for code in (-6, -7, -9, -11)]
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
            "prefect.state-message": [*_KILLED, f"{_SILENT}*"],
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


def watch_runs_in_progress(client: SyncPrefectClient) -> None:
    """Let the automation mark runs as crashed that died with an earlier server or worker.

    The automation counts from the last heartbeat that this server received. So this sends one heartbeat for every run
    in progress; live runs send the next ones themselves.
    """
    in_progress = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    state = FlowRunFilterState(type=FlowRunFilterStateType(any_=in_progress))
    for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=state)):
        emit_event(_HEARTBEAT, {"prefect.resource.id": f"prefect.flow-run.{run.id}", "prefect.resource.name": run.name})
    EventsWorker.drain_all(timeout=30)


def _is_same(found: Automation, other: AutomationCore) -> bool:
    ignored = {"id", "enabled"}
    sent = AutomationCore.model_validate(other.model_dump(mode="json"))
    return found.model_dump(exclude=ignored) == sent.model_dump(exclude=ignored)
