"""The progress of a stage: reported to the terminal at once and to the Prefect UI every few seconds."""

import contextvars
import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, cast
from uuid import UUID

from prefect import get_client
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.logging import get_run_logger

from homegrown.reporting.numbers import duration
from homegrown.util.progress import Metric
from tasks.ui.events import Event, emit
from tasks.ui.figures import progress_in_words
from tasks.ui.outbox import rewrite

_log = logging.getLogger(__name__)
_POST_SECONDS = 2.0
_PICTURE_SECONDS = 20.0
_LOG_SECONDS = 60.0


class Reporter:
    """The `Progress` of a stage.

    A post takes tens of milliseconds, and minutes if the server does not answer. Therefore a thread posts the latest
    value; its errors are logged and never reach the stage.
    """

    def __init__(self, stage: str, picture: Callable[[], str | None] | None = None) -> None:
        self._stage = stage
        self._picture = picture
        self._latest = Event(stage, "started")
        self._started = time.monotonic()
        self._stop = threading.Event()
        self._finished = False
        context = contextvars.copy_context()  # carries the task run to which Prefect attaches the posts
        self._thread = threading.Thread(target=context.run, args=(self._post_all,), name=f"report-{stage}", daemon=True)

    def __call__(self, done: float, total: float | None = None, /, **metrics: Metric) -> None:
        """Set the latest value."""
        self._latest = Event(self._stage, "progress", done, total, metrics)
        emit(self._latest)

    def __enter__(self) -> Self:
        emit(self._latest)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finished = error is None
        self._stop.set()
        if self._finished:
            # Long enough for a last post to a server that answers, short if it does not.
            self._thread.join(timeout=1)
        else:
            # A signal (Ctrl-C, cancellation) is not a failure; Prefect raises it as a BaseException too.
            emit(Event(self._stage, "failed" if isinstance(error, Exception) else "stopped"))

    def _post_all(self) -> None:
        posted = None
        artifact: UUID | None = None
        live = LiveMarkdown(f"{self._stage}-live")
        pictured = logged = time.monotonic()
        while True:
            stopping = self._stop.wait(_POST_SECONDS)
            latest = self._latest
            try:
                if artifact is not None if stopping else latest is not posted:
                    share, text = self._describe(latest)
                    if artifact is None:
                        artifact = cast(UUID, create_progress_artifact(share, f"{self._stage}-progress", text))
                    else:
                        update_progress_artifact(artifact, share, text)
                    posted = latest
                if not (stopping or self._finished) and time.monotonic() - logged > _LOG_SECONDS:
                    logged = time.monotonic()
                    get_run_logger().info("%s: %s", self._stage, self._describe(latest)[1])
                if self._picture and (stopping or time.monotonic() - pictured > _PICTURE_SECONDS):
                    pictured = time.monotonic()
                    if markdown := live.shown if stopping else self._picture():
                        live.post(markdown, f"{self._stage}: {self._describe(latest)[1]}")
            except Exception as error:
                _log.debug("Could not post the progress of %s: %s", self._stage, error)
            if stopping:
                return

    def _describe(self, event: Event) -> tuple[float, str]:
        seconds = time.monotonic() - self._started
        return (100.0, f"finished in {duration(seconds)}") if self._finished else progress_in_words(event, seconds)


class LiveMarkdown:
    """A markdown artifact in the UI of which only the latest version is stored, because pictures are large."""

    def __init__(self, key: str) -> None:
        self._key = key
        self.shown = ""
        self._artifact: UUID | None = None

    def post(self, markdown: str, description: str) -> None:
        """Post `markdown` with a one-line description."""
        self.shown = markdown
        if self._artifact is None:
            self._artifact = cast(UUID, create_markdown_artifact(markdown, self._key, description))
        else:
            with get_client(sync_client=True) as client:
                rewrite(client, self._artifact, markdown, description)
