"""Progress of a stage: one call, `progress(done, total, **metrics)`."""

from dataclasses import dataclass, field
from typing import Protocol

Metric = int | float | str


class Progress(Protocol):
    """A callback of a stage; it must be cheap and never raise."""

    def __call__(self, done: float, total: float | None = None, /, **metrics: Metric) -> None:
        """Report that `done` of `total` is finished (any unit; None: unknown), with metrics to show."""


def silent(done: float, total: float | None = None, /, **metrics: Metric) -> None:
    """Ignore the report."""


@dataclass(frozen=True)
class Outcome:
    """Input and output rows of a stage in its unit (documents, tokens or variants), and other metrics."""

    rows_in: int
    rows_out: int
    unit: str = "documents"
    metrics: dict[str, Metric] = field(default_factory=dict)
