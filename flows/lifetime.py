"""The end of a run that could not report it: no run and no task run stays "Running" on the server."""

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
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Cancelled, Crashed

from flows import AUTHOR_TAG
from flows.local.automation import end_task_runs
from flows.local.children import KILLED, end_with_worker
from homegrown.store.artifacts import Store
from homegrown.util import locks
from homegrown.util.users import user_name
from tasks.logs import quieten
from tasks.stage import store

_POLL_SECONDS = 3.0
_ENDING_SECONDS = 10.0  # of a process that received SIGTERM
_RESUME = "Finished stages are kept; run it again to resume."
_mine: set[UUID] = set()  # the runs of this process


def begin() -> None:
    """Tie a flow run to its worker, take its lock, and shorten its log; every flow calls it first."""
    quieten()
    end_with_worker()
    watch_over(store(), UUID(str(flow_run.id)))
    _sign(UUID(str(flow_run.id)))


def _sign(run: UUID) -> None:
    """Tag the run with its author, the user whose process this is."""
    tag = f"{AUTHOR_TAG}{user_name()}"
    if tag not in flow_run.tags:
        with suppress(httpx.HTTPError, PrefectHTTPStatusError), get_client(sync_client=True) as client:
            client.update_flow_run(run, tags=[*flow_run.tags, tag])


def watch_over(store: Store, run: UUID) -> None:
    """Take the lock that marks the run as alive, and report the end of runs whose processes died.

    This process keeps the lock until it ends, because the run's last state is set after the flow's function returns.
    A run without a worker also starts to listen for its cancellation in the UI.

    A process too busy for heartbeats looks dead, and the server starts the run a second time. The second attempt waits
    here for the end of the first, whose artifacts are then cached.
    """
    folder = store.root / ".state" / "runs"
    if run not in _mine and not locks.acquire(folder / str(run), timeout=_ENDING_SECONDS):
        get_run_logger().warning("The previous attempt still runs; this one waits for its end.")
        locks.acquire(folder / str(run))
    _mine.add(run)
    with suppress(httpx.HTTPError, PrefectHTTPStatusError), get_client(sync_client=True) as client:
        end_task_runs(client, run, Crashed(message="The previous attempt ended here."))
        _end_dead_runs(client, folder)
    if "PREFECT__FLOW_RUN_ID" not in os.environ and threading.current_thread() is threading.main_thread():
        context = contextvars.copy_context()  # carries the address of the run's server
        threading.Thread(target=context.run, args=(_listen, run), name="cancelled?", daemon=True).start()


def after_crash(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
    """Hook of a crash: ends the task runs; a run in a terminal becomes Cancelled."""
    with get_client(sync_client=True) as client:
        now = client.read_flow_run(flow_run.id)
        if now.deployment_id is None and now.id in _mine:
            # Its process still runs this hook, so a signal or the UI stopped it.
            cancelled: State[Any] = Cancelled(message=f"Stopped. {_RESUME}")
            end_task_runs(client, now.id, cancelled)
            client.set_flow_run_state(now.id, cancelled, force=True)
            return
        end_task_runs(client, now.id, Crashed(message=state.message))


def after_cancellation(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
    """Hook of a cancellation: ends the task runs."""
    with get_client(sync_client=True) as client:
        end_task_runs(client, flow_run.id, Cancelled())


def _end_dead_runs(client: SyncPrefectClient, folder: Path) -> None:
    """End the runs whose processes are dead, and delete their lock files."""
    for file in folder.iterdir():
        if not locks.try_acquire(file):
            continue
        try:
            run = client.read_flow_run(UUID(file.name))
            cancelling = run.state_type is StateType.CANCELLING
            end: State[Any] = Cancelled() if cancelling else Crashed(message=f"{KILLED}. {_RESUME}")
            end_task_runs(client, run.id, end)
            if run.state_type in (StateType.RUNNING, StateType.CANCELLING):
                client.set_flow_run_state(run.id, end, force=True)
            file.unlink()
        except ObjectNotFound:  # a run of another server
            file.unlink()
        finally:
            locks.release(file)


def _listen(run: UUID) -> None:
    """Send SIGTERM to this process, as a worker would, when the run is cancelled in the UI."""
    with suppress(ObjectNotFound), get_client(sync_client=True) as client:  # the run may be deleted in the UI
        while True:
            time.sleep(_POLL_SECONDS)
            with suppress(httpx.HTTPError, PrefectHTTPStatusError):
                state = client.read_flow_run(run).state
                if state and state.is_cancelling():
                    os.kill(os.getpid(), signal.SIGTERM)
                if state and (state.is_cancelling() or state.is_final()):
                    return
