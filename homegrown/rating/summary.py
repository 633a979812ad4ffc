"""Ratings in summary: mean scores with intervals for each system, and the agreement between raters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from homegrown.rating.items import AUTHOR, HUMAN
from homegrown.rating.ratings import CRITERIA, HIGHEST
from homegrown.util.seeds import derive

RESAMPLES = 2_000
"""Bootstrap resamples; 50 lie beyond each end of a 95% interval."""


@dataclass(frozen=True)
class Mean:
    """The mean score of a system, with its 95% bootstrap interval; the ends are NaN for a single completion."""

    mean: float
    low: float
    high: float
    completions: int


@dataclass(frozen=True)
class Summary:
    """All ratings together.

    `means` is by system and criterion, without unrated ones; `agreement` is Krippendorff's alpha for ordinal data by
    criterion (1: all agree, 0: chance), without those that no two raters scored or whose scores are all equal.
    """

    raters: int
    completions: int
    shared: int
    """Completions that more than one rater rated."""
    means: Mapping[str, Mapping[str, Mean]]
    agreement: Mapping[str, float]


def summarize(answers: pa.Table) -> Summary:
    """Summarize the rows of `answers.all_answers`; each completion counts once, however many rated it."""
    rows = answers.to_pylist()
    raters_of: dict[str, set[str]] = {}
    for row in rows:
        raters_of.setdefault(row["item"], set()).add(row["rater"])
    agreement = {
        name: alpha
        for name in CRITERIA
        if (alpha := ordinal_alpha([(row["rater"], row["item"], row[name]) for row in rows if row[name] is not None]))
        is not None
    }
    return Summary(
        raters=len({row["rater"] for row in rows}),
        completions=len(raters_of),
        shared=sum(len(raters) > 1 for raters in raters_of.values()),
        means=_means(rows),
        agreement=agreement,
    )


def ordinal_alpha(scores: Sequence[tuple[str, str, int]]) -> float | None:
    """Return Krippendorff's alpha (2011, "Computing Krippendorff's Alpha-Reliability") of (rater, item, score).

    None if no item has two raters, or all scores that can be paired are equal.
    """
    counts: dict[str, int] = {}
    for _, item, _ in scores:
        counts[item] = counts.get(item, 0) + 1
    paired = [score for score in scores if counts[score[1]] > 1]
    if len({score for _, _, score in paired}) < 2:
        return None
    frequency = np.bincount([score for _, _, score in paired], minlength=HIGHEST + 1)

    def distance(one: int, other: int) -> float:
        """Return the squared ordinal difference: the number of scores between the two, their own counted half."""
        low, high = sorted((one, other))
        return float(frequency[low : high + 1].sum() - (frequency[low] + frequency[high]) / 2) ** 2

    from nltk.metrics.agreement import AnnotationTask  # with SciPy and scikit-learn it takes a second

    alpha: float = AnnotationTask(paired, distance=distance).alpha()
    return alpha


def _means(rows: Sequence[Mapping[str, object]]) -> dict[str, dict[str, Mean]]:
    scores: dict[str, dict[str, dict[str, list[int]]]] = {}
    for row in rows:
        for system in row["systems"]:  # type: ignore[attr-defined]
            for name in CRITERIA:
                if row[name] is not None:
                    by_text = scores.setdefault(system, {}).setdefault(name, {})
                    by_text.setdefault(row["item"], []).append(row[name])  # type: ignore[arg-type]
    systems = sorted(scores, key=lambda system: (system in (HUMAN, AUTHOR), system))
    return {
        system: {name: _mean(scores[system][name], system, name) for name in CRITERIA if name in scores[system]}
        for system in systems
    }


def _mean(by_text: Mapping[str, Sequence[int]], system: str, criterion: str) -> Mean:
    """Return the mean over completions with its percentile bootstrap interval (Efron 1979)."""
    means = np.array([np.mean(by_text[item]) for item in sorted(by_text)])
    if len(means) < 2:
        return Mean(float(means.mean()), float("nan"), float("nan"), len(means))
    dice = np.random.default_rng(derive(0, "rating bootstrap", system, criterion))
    drawn = means[dice.integers(len(means), size=(RESAMPLES, len(means)))].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Mean(float(means.mean()), float(low), float(high), len(means))
