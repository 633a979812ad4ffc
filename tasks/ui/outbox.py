"""Posts to the Prefect server, made in order by a thread.

A post takes tens of milliseconds, and minutes if the server does not answer. No stage waits for one; errors are logged
and never reach a stage.
"""

import contextvars
import json
import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self
from uuid import UUID

import httpx
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate

Job = Callable[[SyncPrefectClient], object]

_log = logging.getLogger(__name__)
_IDLE_SECONDS = 1.0
_LAST_SECONDS = 10.0
"""Wait for one more job at the end; Prefect's client retries a busy server after 2 s and 6 s."""


class Outbox:
    """Runs jobs in order, and `when_idle` between them and at the end."""

    def __init__(self, when_idle: Job | None = None) -> None:
        self._jobs: queue.Queue[Job | None] = queue.Queue()
        self._when_idle = when_idle
        self._failed = False
        self._unreachable = False
        self._ending = False
        self._done = 0
        context = contextvars.copy_context()  # carries the address of the run's server
        self._thread = threading.Thread(target=context.run, args=(self._work,), name="outbox", daemon=True)

    def put(self, job: Job) -> None:
        """Add a job."""
        self._jobs.put(job)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until all jobs are done, while the server keeps answering."""
        self._ending = True
        self._jobs.put(None)
        done = -1
        while self._thread.is_alive() and done < self._done:
            done = self._done
            self._thread.join(timeout=_LAST_SECONDS)

    def _work(self) -> None:
        try:
            with get_client(sync_client=True) as client:
                while (job := self._next()) is not None:
                    self._do(job, client)
                    if self._ending and self._unreachable:
                        return
                if self._when_idle:
                    self._do(self._when_idle, client)
        except Exception as error:
            _log.warning("Posts to the Prefect UI failed: %s", error)

    def _next(self) -> Job | None:
        try:
            return self._jobs.get(timeout=_IDLE_SECONDS if self._when_idle else None)
        except queue.Empty:
            return self._when_idle

    def _do(self, job: Job, client: SyncPrefectClient) -> None:
        try:
            job(client)
            self._done += 1
            self._unreachable = False
        except Exception as error:
            # One warning is enough for a server that does not answer.
            _log.log(logging.DEBUG if self._failed else logging.WARNING, "A post to the Prefect UI failed: %s", error)
            self._failed = True
            self._unreachable = isinstance(error, httpx.TransportError)


def post(
    client: SyncPrefectClient,
    key: str,
    markdown: str,
    description: str,
    flow_run: UUID | None,
    task_run: UUID | None = None,
) -> UUID:
    """Post a markdown artifact and return its id."""
    return _create(client, "markdown", key, markdown, description, flow_run, task_run)


def post_table(
    client: SyncPrefectClient,
    key: str,
    rows: Sequence[Mapping[str, str]],
    description: str,
    flow_run: UUID | None,
    task_run: UUID | None = None,
) -> UUID:
    """Post a table artifact, which the UI sorts and searches, and return its id."""
    return _create(client, "table", key, json.dumps([dict(row) for row in rows]), description, flow_run, task_run)


def _create(
    client: SyncPrefectClient,
    kind: str,
    key: str,
    data: str,
    description: str,
    flow_run: UUID | None,
    task_run: UUID | None,
) -> UUID:
    artifact = ArtifactCreate(
        key=key,
        type=kind,
        data=data,
        description=description,
        flow_run_id=flow_run,
        task_run_id=task_run,
    )
    return client.create_artifact(artifact).id


def rewrite(client: SyncPrefectClient, artifact: UUID, markdown: str, description: str) -> None:
    """Replace the content of an artifact under the same address.

    The client's own `update_artifact` would copy the content into the server's events too.
    """
    client.request(
        "PATCH",
        "/artifacts/{id}",
        path_params={"id": artifact},
        json={"data": markdown, "description": description},
    )
