"""How a stage says how far it is: one call, `progress(done, total, **metrics)`."""

from typing import Protocol

Metric = int | float | str


class Progress(Protocol):
    """What a stage calls now and then; it must be cheap and never raise."""

    def __call__(self, done: float, total: float | None = None, /, **metrics: Metric) -> None:
        """Say that `done` of `total` is finished (any unit; `None`: unknown), with figures worth showing."""


def silent(done: float, total: float | None = None, /, **metrics: Metric) -> None:
    """Report to nobody."""
