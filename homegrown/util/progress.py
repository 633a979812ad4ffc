"""How a stage says how far it is: one call, `progress(done, total, **metrics)`."""

from dataclasses import dataclass, field
from typing import Protocol

Metric = int | float | str


class Progress(Protocol):
    """What a stage calls now and then; it must be cheap and never raise."""

    def __call__(self, done: float, total: float | None = None, /, **metrics: Metric) -> None:
        """Say that `done` of `total` is finished (any unit; `None`: unknown), with figures worth showing."""


def silent(done: float, total: float | None = None, /, **metrics: Metric) -> None:
    """Report to nobody."""


@dataclass(frozen=True)
class Outcome:
    """Rows taken and made (documents, tokens or variants, as the stage's unit is) and other figures."""

    rows_in: int
    rows_out: int
    unit: str = "documents"
    metrics: dict[str, Metric] = field(default_factory=dict)
