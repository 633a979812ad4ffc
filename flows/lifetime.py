"""How a run that did not end by itself is ended for the server: no run and no task run stays "Running" for ever."""

import contextvars
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.logging import get_run_logger
from prefect.states import Cancelled, Crashed

from homegrown.store.artifacts import Store
from homegrown.util import locks

_POLL_SECONDS = 3.0
_ENDING_SECONDS = 10.0  # of a process that was told to end
_LEFT = "Nothing is lost that was made; run it again and it goes on from there."
_STOPPED = "Execution was aborted by"  # what Prefect says of a task run that a signal ended, and calls crashed
_mine: set[UUID] = set()  # the runs of this process


def watch_over(store: Store, run: UUID) -> None:
    """Hold the lock that says that the run is alive, and end for the server what died without a word.

    The lock is this process's until it ends: the run's last state is set after the flow's function has returned. Where
    no worker looks after the run, somebody who cancels it in the UI is heard too. Call it at the start of the run.

    A process too busy to send heartbeats is taken for dead, and the run is started again beside it. That attempt waits
    here until the one before has ended: what it made is then cached.
    """
    folder = store.root / ".state" / "runs"
    if run not in _mine and not locks.acquire(folder / str(run), timeout=_ENDING_SECONDS):
        get_run_logger().warning("The attempt before is still at work; this one waits for its end.")
        locks.acquire(folder / str(run))
    _mine.add(run)
    with suppress(httpx.HTTPError, PrefectHTTPStatusError), get_client(sync_client=True) as client:
        _end_task_runs(client, run, Crashed(message="The attempt before ended here."))
        _bury(client, folder)
    if "PREFECT__FLOW_RUN_ID" not in os.environ and threading.current_thread() is threading.main_thread():
        context = contextvars.copy_context()  # it carries which server this run talks to
        threading.Thread(target=context.run, args=(_listen, run), name="cancelled?", daemon=True).start()


def after_crash(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
    """Hook for a crash: end its task runs; call a run of the terminal cancelled."""
    with get_client(sync_client=True) as client:
        now = client.read_flow_run(flow_run.id)
        if now.deployment_id is None and now.id in _mine:
            # Its process still runs the hook: so somebody stopped it with a signal, or in the UI.
            cancelled: State[Any] = Cancelled(message=f"Stopped. {_LEFT}")
            _end_task_runs(client, now.id, cancelled)
            client.set_flow_run_state(now.id, cancelled, force=True)
            return
        _end_task_runs(client, now.id, Crashed(message=state.message))


def after_cancellation(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
    """Hook for a cancelled run: end its task runs."""
    with get_client(sync_client=True) as client:
        _end_task_runs(client, flow_run.id, Cancelled())


def _bury(client: SyncPrefectClient, folder: Path) -> None:
    """End the runs whose process is gone; their locks' files are needed no more."""
    for file in folder.iterdir():
        if not locks.try_acquire(file):
            continue
        try:
            run = client.read_flow_run(UUID(file.name))
            cancelling = run.state_type is StateType.CANCELLING
            end: State[Any] = Cancelled() if cancelling else Crashed(message=f"Its process was killed. {_LEFT}")
            _end_task_runs(client, run.id, end)
            if run.state_type in (StateType.RUNNING, StateType.CANCELLING):
                client.set_flow_run_state(run.id, end, force=True)
            file.unlink()
        except ObjectNotFound:  # a run of another server
            file.unlink()
        finally:
            locks.release(file)


def _end_task_runs(client: SyncPrefectClient, run: UUID, state: State[Any]) -> None:
    for one in client.read_task_runs(flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [run]}})):
        stopped = one.state and one.state.is_crashed() and str(one.state.message).startswith(_STOPPED)
        if one.state is None or not one.state.is_final() or (stopped and state.is_cancelled()):
            client.set_task_run_state(one.id, state, force=True)


def _listen(run: UUID) -> None:
    """Send this process SIGTERM, as a worker would, when the run is being cancelled."""
    with suppress(ObjectNotFound), get_client(sync_client=True) as client:  # somebody may delete the run
        while True:
            time.sleep(_POLL_SECONDS)
            with suppress(httpx.HTTPError, PrefectHTTPStatusError):
                state = client.read_flow_run(run).state
                if state and state.is_cancelling():
                    os.kill(os.getpid(), signal.SIGTERM)
                if state and (state.is_cancelling() or state.is_final()):
                    return
