"""Waiting for what a real process or a real server does in its own time."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def wait_for(what: Callable[[], T]) -> T:
    """Return the first true answer; the test's own time-out bounds the wait, however busy the machine is.

    An answer that is long in coming is asked for more seldom, so that asking does not slow down what is waited for.
    """
    while True:
        begin = time.monotonic()
        if answer := what():
            return answer
        time.sleep(max(0.05, 3 * (time.monotonic() - begin)))


def ended_tasks(flow_run: Any, count: int) -> dict[str, str]:
    """Return the states of a run's task runs, by stage, when the server shows `count` of them as ended.

    It hears of them as of events, a moment after the run itself has gone on.
    """
    from prefect import get_client
    from prefect.client.schemas.filters import FlowRunFilter

    with get_client(sync_client=True) as client:

        def ended() -> dict[str, str]:
            found = client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": [flow_run]}))
            final = [one for one in found if one.state and one.state.is_final()]
            return {one.name.rsplit("-", 1)[0]: str(one.state_name) for one in final} if len(final) == count else {}

        return wait_for(ended)
