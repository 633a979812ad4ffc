"""Events of the stages of a run, for listeners in this process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from homegrown.store.manifest import Artifact
from homegrown.util.progress import Metric


@dataclass(frozen=True)
class Event:
    """An event of a stage."""

    stage: str
    kind: Literal["started", "progress", "note", "made", "cached", "failed", "stopped"]
    done: float = 0
    total: float | None = None
    metrics: dict[str, Metric] = field(default_factory=dict)
    artifact: Artifact | None = None
    message: str = ""
    """The text of a note, for whoever started the run."""


Listener = Callable[[Event], None]
_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call `listener` for each event of this process during the block; it must be fast and never raise."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def emit(event: Event) -> None:
    """Call every listener."""
    for listener in _listeners:
        listener(event)
