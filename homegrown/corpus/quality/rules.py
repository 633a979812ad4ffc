"""The rules of a recipe by name, and the documents that fail them, from measured signals without the text.

A setting `min_NAME` or `max_NAME` of a set is a rule: a bound of the measure NAME, the function of that name in the
module of the set. So a new rule is a function there and a line in the settings.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from homegrown.config.filter import (
    C4,
    AllowedUrls,
    BlockedUrls,
    Example,
    FilterSettings,
    FineWeb,
    GopherQuality,
    GopherRepetition,
    Junk,
    WordList,
)
from homegrown.config.settings import Settings
from homegrown.corpus.quality import (
    basic,
    c4,
    example,
    fineweb,
    gopher_quality,
    gopher_repetition,
    junk,
    urls,
    word_list,
)
from homegrown.corpus.quality.by_language import ANY, adapted, table_of
from homegrown.corpus.quality.texts import Values

SETS: dict[str, tuple[ModuleType, type[Settings]]] = {
    "": (basic, FilterSettings),
    "junk": (junk, Junk),
    "gopher_quality": (gopher_quality, GopherQuality),
    "gopher_repetition": (gopher_repetition, GopherRepetition),
    "c4": (c4, C4),
    "fineweb": (fineweb, FineWeb),
    "word_list": (word_list, WordList),
    "example": (example, Example),
    "blocked_urls": (urls, BlockedUrls),
    "allowed_urls": (urls, AllowedUrls),
}
LANGUAGES = "languages"
LANGUAGE_SCORE = "language_score"  # a column of the signals that identification fills


@dataclass(frozen=True)
class Rule:
    """A bound of one measure; `name` is the path of the setting. A value equal to the threshold passes."""

    name: str
    signal: tuple[str, ...]  # column of the signals, and its field
    threshold: float
    least: bool


def measures(name: str) -> dict[str, Callable[[Any], Values]]:
    """Return the measures of a set that have a setting."""
    module, settings = SETS[name]
    names = [_measure(field) for field in _fields(settings)]
    return {each: getattr(module, each) for each in names if each != LANGUAGE_SCORE}


def rules(settings: FilterSettings) -> list[Rule]:
    """Return the enabled rules in order, without languages, which has no threshold.

    With `language: auto`, those that only other languages than English have are last.
    """
    own = _enabled(settings)
    if settings.language != "auto":
        return own
    names = {rule.name for rule in own}
    return [*own, *(rule for rule in _enabled(adapted(settings, ANY)) if rule.name not in names)]


def failures(
    signals: pa.Table, settings: FilterSettings, bounds: NDArray[np.float64] | None = None
) -> NDArray[np.bool_]:
    """Return which of n documents fail which of the enabled rules: (rules, n); `bounds` are `thresholds`, if known."""
    active, bounds = rules(settings), thresholds(signals, settings) if bounds is None else bounds
    fails = np.zeros(bounds.shape, bool)
    for number, rule in enumerate(active):
        value = values(signals, rule)
        fails[number] = value < bounds[number] if rule.least else value > bounds[number]
    return fails


def thresholds(signals: pa.Table, settings: FilterSettings) -> NDArray[np.float64]:
    """Return the threshold of each enabled rule for each of n documents, NaN if it does not apply: (rules, n)."""
    active = rules(settings)
    if settings.language != "auto":
        return np.repeat([[rule.threshold] for rule in active], len(signals), axis=1).reshape(-1, len(signals))
    tables = np.array(tables_of(signals["language"].to_pylist(), signals["script"].to_pylist()), dtype=object)
    result = np.empty((len(active), len(signals)))
    for table in set(tables):
        own = {rule.name: rule.threshold for rule in _enabled(adapted(settings, table))}
        result[:, tables == table] = np.array([own.get(rule.name, np.nan) for rule in active]).reshape(-1, 1)
    return result


def tables_of(languages: list[str], scripts: list[str]) -> list[str]:
    """Return the name of each document's figures (`homegrown.corpus.quality.by_language`)."""
    return [table_of(language, script) for language, script in zip(languages, scripts, strict=True)]


def values(signals: pa.Table, rule: Rule) -> Values:
    """Return the measured values of a rule: (n,) float64."""
    column = signals[rule.signal[0]].combine_chunks()
    for field in rule.signal[1:]:
        column = column.field(field)
    measured: Values = column.to_numpy(zero_copy_only=False).astype(float)  # null becomes NaN, which passes
    return measured


def _enabled(settings: FilterSettings) -> list[Rule]:
    return [rule for name in SETS for rule in _rules(name, getattr(settings, name) if name else settings)]


def _rules(name: str, settings: Settings | None) -> Iterator[Rule]:
    if settings is None:
        return
    for field in _fields(type(settings)):
        threshold = getattr(settings, field)
        if threshold is not None:
            measure = _measure(field)
            path = (name, measure) if name else (measure,)
            yield Rule(".".join((*path[:-1], field)), path, threshold, field.startswith("min_"))


@cache
def _fields(settings: type[Settings]) -> tuple[str, ...]:
    """Return the settings that are bounds."""
    return tuple(field for field in settings.model_fields if field.startswith(("min_", "max_")))


def _measure(field: str) -> str:
    return field[len("min_") :]
