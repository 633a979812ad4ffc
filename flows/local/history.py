"""Old runs of a store in the Prefect server, which keeps them forever."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime

from prefect import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterName,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

from flows.local import server
from homegrown.store.runs import RunRecord
from homegrown.util.errors import UserError

_NAMES = 100
"""Names in one request."""


def old_runs(records: Mapping[str, RunRecord], before: datetime) -> list[FlowRun]:
    """Return the server's runs that ended before a time, for those that a store has records of, the oldest first.

    The server may have runs of other folders. A run is that of a record if it has its name and ran when it was written.

    Raises:
        UserError: the server refused the request, as without its password.
    """
    found: list[FlowRun] = []
    names = [name for name, record in records.items() if record.started < before]
    try:
        with get_client(sync_client=True) as client:
            for begin in range(0, len(names), _NAMES):
                wanted = FlowRunFilter(
                    name=FlowRunFilterName(any_=names[begin : begin + _NAMES]),
                    end_time=FlowRunFilterEndTime.model_validate({"before_": before}),
                    state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(TERMINAL_STATES))),
                )
                offset = 0
                while page := client.read_flow_runs(flow_run_filter=wanted, offset=offset):
                    found += [run for run in page if _wrote(run, records[run.name])]
                    offset += len(page)
    except PrefectHTTPStatusError as error:
        raise UserError(server.refused(server.address(), error)) from error
    return sorted(found, key=lambda run: run.end_time or before)


def delete(runs: Iterable[FlowRun]) -> None:
    """Delete runs from the server, which deletes their logs too, and within a day their pages."""
    with get_client(sync_client=True) as client:
        for run in runs:
            with suppress(ObjectNotFound):
                client.delete_flow_run(run.id)


def _wrote(run: FlowRun, record: RunRecord) -> bool:
    return bool(run.start_time and run.end_time and run.start_time <= record.started <= run.end_time)
