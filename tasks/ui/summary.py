"""The summary of a run: one page in the UI with the state and result of each stage, during the run and after it."""

import functools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import TaskRun
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from homegrown.reporting.numbers import duration, file_size, quantity, shown
from homegrown.store.manifest import Artifact
from tasks.ui import panels
from tasks.ui.events import Event, listening
from tasks.ui.figures import progress_in_words
from tasks.ui.markdown import address, code, link, quoted, table
from tasks.ui.outbox import Outbox, post, post_table, rewrite

KEY = "summary"
_LEAST_SECONDS = 5.0


@dataclass
class StageEntry:
    """One stage of the run."""

    state: Literal["", "running", "made", "cached", "failed", "stopped"] = ""
    progress: Event | None = None
    began: float = 0.0
    artifact: Artifact | None = None
    task_run: UUID | None = None
    report: UUID | None = None
    excerpt: str = ""
    note: str = ""


class Summary:
    """Receives the events of one run's stages and posts their summary."""

    def __init__(self, name: str, run: UUID, stages: Sequence[str]) -> None:
        self._name, self._run = name, run
        self._entries = {stage: StageEntry() for stage in stages}
        self._began = datetime.now(UTC)
        self._end = ""
        self._id: UUID | None = None
        self._posted, self._posted_at = "", 0.0
        self.outbox = Outbox(when_idle=self._post)

    def __call__(self, event: Event) -> None:
        """Receive an event of this run's stages."""
        entry = self._entries.get(event.stage)
        if entry is None or _current.get() is not self:
            return
        if event.kind == "started":
            entry.state, entry.began = "running", time.monotonic()
        elif event.kind == "progress":
            entry.progress = event
        elif event.kind == "note":
            entry.note = event.message
        else:
            entry.state = event.kind
            entry.artifact = event.artifact or entry.artifact

    def begin(self) -> None:
        """Post the first version, to which the stages' pages link."""
        self.outbox.put(self._post)

    def add(self, artifact: Artifact, panel: panels.Panel | None, task_run: TaskRun) -> None:
        """Post the page of an artifact of this run, and quote it."""
        self._entries.setdefault(artifact.manifest.stage, StageEntry()).task_run = task_run.id
        self.outbox.put(functools.partial(self._post_page, artifact, panel, task_run))

    def finish(self, error: BaseException | None) -> None:
        """Set the end of the run."""
        took = duration((datetime.now(UTC) - self._began).total_seconds())
        if error is None:
            self._end = f"Finished in {took}."
            return
        broken = [stage for stage, entry in self._entries.items() if entry.state in ("failed", "stopped", "running")]
        reason = f": {code(str(error))}" if isinstance(error, Exception) and str(error) else "."
        self._end = f"Stopped after {took}{' in ' + broken[-1] if broken else ''}{reason}"

    def _post_page(
        self, artifact: Artifact, panel: panels.Panel | None, task_run: TaskRun, client: SyncPrefectClient
    ) -> None:
        entry = self._entries[artifact.manifest.stage]
        entry.report, entry.excerpt = post_page(client, artifact, panel, task_run, self._id)

    def _post(self, client: SyncPrefectClient) -> None:
        """Post the current summary, at most every few seconds; the final one is always posted."""
        if not self._end and time.monotonic() - self._posted_at < _LEAST_SECONDS:
            return
        markdown = self.markdown()
        if markdown == self._posted:
            return
        if self._id is None:
            self._id = post(client, KEY, markdown, self._description(), self._run)
            get_run_logger().info("Summary of this run: %s", address(f"/artifacts/artifact/{self._id}"))
        else:
            rewrite(client, self._id, markdown, self._description())
        self._posted, self._posted_at = markdown, time.monotonic()

    def _description(self) -> str:
        states = [entry.state for entry in self._entries.values()]
        counted = [f"{states.count(state)} {state}" for state in ("made", "cached", "running", "failed", "stopped")]
        return f"{self._name}: {', '.join(text for text in counted if text[0] != '0') or 'just started'}"

    def markdown(self) -> str:
        """Return the current summary."""
        parts = [f"**{self._name}** · {self._end or self._now()}", self._table()]
        parts += [f"{stage}: {code(entry.note)}" for stage, entry in self._entries.items() if entry.note]
        parts += [entry.excerpt for entry in self._entries.values() if entry.excerpt]
        folders = [f"{stage:<12} {entry.artifact.path}" for stage, entry in self._entries.items() if entry.artifact]
        if folders:
            parts += ["### Folders", quoted("\n".join(folders))]
        return "\n\n".join(parts)

    def _now(self) -> str:
        for stage, entry in self._entries.items():
            if entry.state == "running":
                seconds = time.monotonic() - entry.began
                _, words = progress_in_words(entry.progress or Event(stage, "started"), seconds)
                return f"{stage} is running: {words}. Reload for newer progress."
        return "Running. Reload for newer progress."

    def _table(self) -> str:
        header = ["stage", "state", "artifact", "in", "out", "unit", "duration", "size"]
        return table(header, [self._row(stage, entry) for stage, entry in self._entries.items()], left=3)

    def _row(self, stage: str, entry: StageEntry) -> list[str]:
        name = link(stage, f"/runs/task-run/{entry.task_run}") if entry.task_run else stage
        state: str = entry.state
        if entry.state == "running" and entry.progress and entry.progress.total:
            state = f"running, {entry.progress.done / entry.progress.total:.0%}"
        if entry.artifact is None:
            return [name, state, "", "", "", "", "", ""]
        manifest = entry.artifact.manifest
        title = entry.artifact.name
        return [
            name,
            state,
            link(title, f"/artifacts/artifact/{entry.report}") if entry.report else title,
            shown(manifest.rows_in),
            shown(manifest.rows_out),
            manifest.unit,
            duration(manifest.seconds),
            file_size(manifest.bytes),
        ]


def post_page(
    client: SyncPrefectClient,
    artifact: Artifact,
    panel: panels.Panel | None,
    task_run: TaskRun,
    summary: UUID | None = None,
) -> tuple[UUID, str]:
    """Post the page of an artifact; return its id and its excerpt for a summary."""
    page = panels.page(artifact, panel)
    stage = artifact.manifest.stage
    links = [link("run", f"/runs/flow-run/{task_run.flow_run_id}")]
    links += [link("summary", f"/artifacts/artifact/{summary}")] if summary else []
    head = f"**{artifact.name}** · {' · '.join(links)}\n\n`{artifact.path}`"
    description = f"{artifact.name}: {quantity(artifact.manifest.rows_out, artifact.manifest.unit)}"
    posted = post(client, f"{stage}-report", f"{head}\n\n{page.report}", description, task_run.flow_run_id, task_run.id)
    if page.rows:
        post_table(client, f"{stage}-table", page.rows, description, task_run.flow_run_id, task_run.id)
    return posted, page.excerpt


_current: ContextVar[Summary | None] = ContextVar("summary", default=None)


def show(artifact: Artifact, panel: panels.Panel | None, task_run: TaskRun) -> None:
    """Post an artifact's page, as part of the current run's summary if there is one."""
    summary = _current.get()
    if summary is not None:
        summary.add(artifact, panel, task_run)
        return
    with Outbox() as outbox:
        outbox.put(lambda client: post_page(client, artifact, panel, task_run))


@contextmanager
def summarized(stages: Sequence[str]) -> Iterator[None]:
    """Keep the summary of the flow run of the block, with `stages` in order."""
    summary = Summary(str(flow_run.name), UUID(str(flow_run.id)), stages)
    token = _current.set(summary)
    try:
        with summary.outbox, listening(summary):
            summary.begin()
            try:
                yield
            except BaseException as error:
                summary.finish(error)
                raise
            summary.finish(None)
    finally:
        _current.reset(token)
