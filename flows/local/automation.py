"""The automations by which the server marks a silent run as crashed, and starts a killed one again."""

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
"""How often a run of a deployment is started in all, when its process is killed again and again."""

_SILENT = "Nothing was heard of this run for 90 s"
# What a worker says of a run whose process was killed or broke down: by SIGABRT, SIGBUS, SIGKILL or SIGSEGV.
_KILLED = [f"Process exited with status code: {code}.*" for code in (-6, -7, -9, -11)]
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
            message=f"{_SILENT}; run it again and it goes on where it was.",
            force=False,
        )
    ],
)

# A run that was stopped by a signal says so itself, and is left alone: somebody wanted it to end.
RETRY_KILLED_RUNS = AutomationCore(
    name="homegrown: retry killed runs",
    description=f"A run of a deployment that was killed is started again, until it has been started {ATTEMPTS} times.",
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
            message="Its process was killed; it goes on where it was.",
            force=False,
        )
    ],
)


def ensure(client: SyncPrefectClient) -> None:
    """Create the automations, or bring those of their names up to date; one that a person has paused stays so."""
    for wanted in (CRASH_SILENT_RUNS, RETRY_KILLED_RUNS):
        found = client.read_automations_by_name(wanted.name)
        if not found:
            client.create_automation(wanted)
        elif not _is_same(found[0], wanted):
            client.update_automation(found[0].id, wanted.model_copy(update={"enabled": found[0].enabled}))


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


def _is_same(found: Automation, wanted: AutomationCore) -> bool:
    ignored = {"id", "enabled"}
    sent = AutomationCore.model_validate(wanted.model_dump(mode="json"))
    return found.model_dump(exclude=ignored) == sent.model_dump(exclude=ignored)
