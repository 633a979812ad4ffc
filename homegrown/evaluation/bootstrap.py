"""Confidence intervals by resampling documents (Efron and Tibshirani 1993, chapter 13)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

RESAMPLES = 1000
CONFIDENCE = 0.95
MIN_UNITS = 30
"""Documents below which no difference is called significant: percentile intervals of few units are too narrow."""

_AT_ONCE = 4_000_000
"""Counts in memory at the same time, of 8 bytes each."""


@dataclass(frozen=True)
class Interval:
    """A 95% confidence interval over `units` documents."""

    low: float
    high: float
    units: int

    @property
    def is_significant(self) -> bool:
        """Whether a difference with this interval is significant (two-sided, at 5%); never below `MIN_UNITS`."""
        return self.units >= MIN_UNITS and (self.low > 0 or self.high < 0)

    @property
    def negated(self) -> "Interval":
        """The interval of the opposite difference."""
        return Interval(-self.high, -self.low, self.units)


def interval(columns: Numbers, statistic: Callable[[Numbers], Numbers], seed: int) -> Interval | None:
    """Return the percentile interval of a figure that is a function of sums over documents; None for one document.

    `columns`, float64 [documents, k], is what each document adds to the k sums; `statistic` takes sums [resamples, k]
    and returns the figures [resamples]. Each of 1,000 resamples draws as many documents as there are, with
    replacement. The draws depend on `seed` and the number of documents alone.
    """
    documents = len(columns)
    units = int(np.count_nonzero(columns.any(axis=1)))
    if units < 2:  # every resample would be the same
        return None
    draws = np.random.default_rng(seed)
    chances = np.full(documents, 1 / documents)
    figures: list[Numbers] = []
    left = RESAMPLES
    while left:
        rows = min(left, max(1, _AT_ONCE // documents))
        counts = draws.multinomial(documents, chances, size=rows)
        figures.append(statistic(counts @ columns))
        left -= rows
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.nanpercentile(np.concatenate(figures), [tail, 100 - tail])
    return Interval(float(low), float(high), units)


def mean_interval(values: Numbers, seed: int) -> Interval | None:
    """Return the interval of the mean of `values`, float64 [documents]; None for one value."""
    columns = np.stack([values, np.ones(len(values))], axis=1)
    return interval(columns, lambda sums: sums[:, 0] / sums[:, 1], seed)
