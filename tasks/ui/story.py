"""The story of a run: one page in the UI that says what each stage made, in order, while it goes on and at the end."""

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

from homegrown.reporting.numbers import duration, file_size, shown
from homegrown.store.artifacts import Artifact
from tasks.ui import panels
from tasks.ui.events import Event, listening
from tasks.ui.figures import progress_in_words
from tasks.ui.markdown import address, code, link, quoted, table
from tasks.ui.outbox import Outbox, post, post_table, rewrite

KEY = "story"
_LEAST_SECONDS = 5.0


@dataclass
class Chapter:
    """What is known of one stage of the run."""

    state: Literal["", "working", "made", "cached", "failed", "stopped"] = ""
    progress: Event | None = None
    began: float = 0.0
    artifact: Artifact | None = None
    task_run: UUID | None = None
    report: UUID | None = None
    excerpt: str = ""


class Story:
    """Hears what happens to the stages of one run, and tells it."""

    def __init__(self, name: str, run: UUID, stages: Sequence[str]) -> None:
        self._name, self._run = name, run
        self._chapters = {stage: Chapter() for stage in stages}
        self._began = datetime.now(UTC)
        self._end = ""
        self._id: UUID | None = None
        self._told, self._when = "", 0.0
        self.outbox = Outbox(when_idle=self._tell)

    def __call__(self, event: Event) -> None:
        """Hear an event of this run's stages."""
        chapter = self._chapters.get(event.stage)
        if chapter is None or _current.get() is not self:
            return
        if event.kind == "started":
            chapter.state, chapter.began = "working", time.monotonic()
        elif event.kind == "progress":
            chapter.progress = event
        else:
            chapter.state = event.kind
            chapter.artifact = event.artifact or chapter.artifact

    def begin(self) -> None:
        """Post the first words, to which the stages' pages then lead back."""
        self.outbox.put(self._tell)

    def add(self, artifact: Artifact, panel: panels.Panel | None, task_run: TaskRun) -> None:
        """Have the page of an artifact that this run made or found posted, and quote it."""
        self._chapters.setdefault(artifact.manifest.stage, Chapter()).task_run = task_run.id
        self.outbox.put(functools.partial(self._post_page, artifact, panel, task_run))

    def finish(self, error: BaseException | None) -> None:
        """Hear how the run ended."""
        took = duration((datetime.now(UTC) - self._began).total_seconds())
        if error is None:
            self._end = f"Finished in {took}."
            return
        broken = [
            stage for stage, chapter in self._chapters.items() if chapter.state in ("failed", "stopped", "working")
        ]
        reason = f": {code(str(error))}" if isinstance(error, Exception) and str(error) else "."
        self._end = f"Stopped after {took}{' in ' + broken[-1] if broken else ''}{reason}"

    def _post_page(
        self, artifact: Artifact, panel: panels.Panel | None, task_run: TaskRun, client: SyncPrefectClient
    ) -> None:
        chapter = self._chapters[artifact.manifest.stage]
        chapter.report, chapter.excerpt = post_page(client, artifact, panel, task_run, self._id)

    def _tell(self, client: SyncPrefectClient) -> None:
        """Post the story as it is now, unless it was just posted; the last word is never held back."""
        if not self._end and time.monotonic() - self._when < _LEAST_SECONDS:
            return
        markdown = self.markdown()
        if markdown == self._told:
            return
        if self._id is None:
            self._id = post(client, KEY, markdown, self._summary(), self._run)
            get_run_logger().info("The story of this run: %s", address(f"/artifacts/artifact/{self._id}"))
        else:
            rewrite(client, self._id, markdown, self._summary())
        self._told, self._when = markdown, time.monotonic()

    def _summary(self) -> str:
        states = [chapter.state for chapter in self._chapters.values()]
        counted = [f"{states.count(state)} {state}" for state in ("made", "cached", "working", "failed", "stopped")]
        return f"{self._name}: {', '.join(text for text in counted if text[0] != '0') or 'just begun'}"

    def markdown(self) -> str:
        """Return the story so far."""
        parts = [f"**{self._name}** · {self._end or self._now()}", self._table()]
        parts += [chapter.excerpt for chapter in self._chapters.values() if chapter.excerpt]
        folders = [
            f"{stage:<12} {chapter.artifact.path}" for stage, chapter in self._chapters.items() if chapter.artifact
        ]
        if folders:
            parts += ["### Where everything lies", quoted("\n".join(folders))]
        return "\n\n".join(parts)

    def _now(self) -> str:
        for stage, chapter in self._chapters.items():
            if chapter.state == "working":
                seconds = time.monotonic() - chapter.began
                _, words = progress_in_words(chapter.progress or Event(stage, "started"), seconds)
                return f"{stage} is at work: {words}. Reload to see how far it is."
        return "It goes on. Reload to see how far it is."

    def _table(self) -> str:
        header = ["stage", "state", "artifact", "in", "out", "of what", "time to make it", "size"]
        return table(header, [self._row(stage, chapter) for stage, chapter in self._chapters.items()], left=3)

    def _row(self, stage: str, chapter: Chapter) -> list[str]:
        name = link(stage, f"/runs/task-run/{chapter.task_run}") if chapter.task_run else stage
        state: str = chapter.state
        if chapter.state == "working" and chapter.progress and chapter.progress.total:
            state = f"working, {chapter.progress.done / chapter.progress.total:.0%}"
        if chapter.artifact is None:
            return [name, state, "", "", "", "", "", ""]
        manifest = chapter.artifact.manifest
        title = chapter.artifact.name
        return [
            name,
            state,
            link(title, f"/artifacts/artifact/{chapter.report}") if chapter.report else title,
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
    story: UUID | None = None,
) -> tuple[UUID, str]:
    """Post the page of one artifact; return its id and what a story quotes."""
    page = panels.page(artifact, panel)
    stage = artifact.manifest.stage
    run = link("the run", f"/runs/flow-run/{task_run.flow_run_id}")
    told = [link("its story", f"/artifacts/artifact/{story}")] if story else []
    head = f"**{artifact.name}** · {' · '.join([run, *told])}\n\n`{artifact.path}`"
    description = f"{artifact.name}: {shown(artifact.manifest.rows_out)} {artifact.manifest.unit}"
    posted = post(client, f"{stage}-report", f"{head}\n\n{page.report}", description, task_run.flow_run_id, task_run.id)
    if page.rows:
        post_table(client, f"{stage}-table", page.rows, description, task_run.flow_run_id, task_run.id)
    return posted, page.excerpt


_current: ContextVar[Story | None] = ContextVar("story", default=None)


def show(artifact: Artifact, panel: panels.Panel | None, task_run: TaskRun) -> None:
    """Post an artifact's page, as a chapter of the story where one is told."""
    story = _current.get()
    if story is not None:
        story.add(artifact, panel, task_run)
        return
    with Outbox() as outbox:
        outbox.put(lambda client: post_page(client, artifact, panel, task_run))


@contextmanager
def told(stages: Sequence[str]) -> Iterator[None]:
    """Tell the story of the flow run that the block is in: of `stages`, in their order."""
    story = Story(str(flow_run.name), UUID(str(flow_run.id)), stages)
    token = _current.set(story)
    try:
        with story.outbox, listening(story):
            story.begin()
            try:
                yield
            except BaseException as error:
                story.finish(error)
                raise
            story.finish(None)
    finally:
        _current.reset(token)
