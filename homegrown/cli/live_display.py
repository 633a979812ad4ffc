"""The live display of a run in the terminal: stages, progress and time left."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from tasks.ui.events import Event, listening
from tasks.ui.figures import SECONDS_LEFT, made_in_words, news

_FIGURES_SHOWN = 4
_WIDE = 100
"""Columns of a terminal from which the bars are long."""


@contextmanager
def live_display(console: Console, stages: Sequence[str]) -> Iterator[None]:
    """Show each stage of the block as a line with a progress bar.

    Without a terminal (a log file, CI) each stage gets one line at its start and one at its end.
    """
    if console.is_terminal:
        with _bars(console) as progress, listening(_Bars(progress, stages)):
            yield
    else:
        with listening(_Lines(console)):
            yield


def _bars(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.fields[stage]:<10}"),
        BarColumn(bar_width=24 if console.width >= _WIDE else 8),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        _TimeLeft(),
        _Note(table_column=Column()),  # the column that a narrow terminal shortens
        console=console,
    )


class _TimeLeft(TimeRemainingColumn):
    """The time left by the stage's own estimate, else by its speed so far."""

    def render(self, task: Task) -> Text:
        left = task.fields.get("left")
        if left is None or task.finished:
            return super().render(task)
        return Text(str(timedelta(seconds=round(left))), style="progress.remaining")


class _Note(ProgressColumn):
    """The latest figures, as many as fit."""

    def render(self, task: Task) -> Text:
        note = Text.from_markup(task.fields["note"])
        note.no_wrap, note.overflow = True, "ellipsis"
        return note


class _Bars:
    def __init__(self, progress: Progress, stages: Sequence[str]) -> None:
        self._progress = progress
        self._rows: dict[str, TaskID] = {
            stage: progress.add_task("", total=None, start=False, stage=stage, note="", visible=False)
            for stage in stages
        }

    def __call__(self, event: Event) -> None:
        row = self._rows.get(event.stage)
        if row is None:
            return
        if event.kind == "started":
            self._progress.start_task(row)
            self._progress.update(row, visible=True)
        elif event.kind == "progress":
            note, left = news(event.metrics, _FIGURES_SHOWN), event.metrics.get(SECONDS_LEFT)
            self._progress.update(row, total=event.total, completed=event.done, note=note, left=left)
        elif event.kind == "note":
            self._progress.console.print(f"{event.stage}: {event.message}", highlight=False, markup=False)
        elif event.kind in ("failed", "stopped"):
            self._progress.update(row, note=f"[{'red' if event.kind == 'failed' else 'yellow'}]{event.kind}")
            self._progress.stop_task(row)
        else:
            self._progress.start_task(row)
            self._progress.update(row, visible=True, total=1, completed=1, note=made_in_words(event))
            self._progress.stop_task(row)


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, event: Event) -> None:
        if event.kind == "started":
            self._console.print(f"{event.stage}: started", highlight=False)
        elif event.kind in ("made", "cached"):
            self._console.print(f"{event.stage}: {made_in_words(event)}", highlight=False)
        elif event.kind == "note":
            self._console.print(f"{event.stage}: {event.message}", highlight=False, markup=False, soft_wrap=True)
        elif event.kind in ("failed", "stopped"):
            self._console.print(f"{event.stage}: {event.kind}", highlight=False)
