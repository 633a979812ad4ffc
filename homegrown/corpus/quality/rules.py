"""The rules of a recipe by name, and the documents that fail them, from measured signals without the text.

A setting `min_NAME` or `max_NAME` of a set is a rule: a bound of the measure NAME, the function of that name in the
module of the set. So a new rule is a function there and a line in the settings.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from homegrown.config.recipe import (
    C4,
    FilterSettings,
    FineWeb,
    GopherQuality,
    GopherRepetition,
    Settings,
    WordList,
)
from homegrown.corpus.quality import basic, c4, fineweb, gopher_quality, gopher_repetition, word_list
from homegrown.corpus.quality.texts import Values

SETS: dict[str, tuple[ModuleType, type[Settings]]] = {
    "": (basic, FilterSettings),
    "gopher_quality": (gopher_quality, GopherQuality),
    "gopher_repetition": (gopher_repetition, GopherRepetition),
    "c4": (c4, C4),
    "fineweb": (fineweb, FineWeb),
    "word_list": (word_list, WordList),
}
LANGUAGES = "languages"


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
    return {_measure(field): getattr(module, _measure(field)) for field in settings.model_fields if _is_rule(field)}


def rules(settings: FilterSettings) -> list[Rule]:
    """Return the enabled rules in order, without languages, which has no threshold."""
    return [rule for name in SETS for rule in _rules(name, getattr(settings, name) if name else settings)]


def failures(signals: pa.Table, settings: FilterSettings) -> NDArray[np.bool_]:
    """Return which of n documents fail which of the enabled rules: (rules, n)."""
    active = rules(settings)
    fails = np.zeros((len(active), len(signals)), bool)
    for number, rule in enumerate(active):
        value = values(signals, rule)
        fails[number] = value < rule.threshold if rule.least else value > rule.threshold
    return fails


def values(signals: pa.Table, rule: Rule) -> Values:
    """Return the measured values of a rule: (n,) float64."""
    column = signals[rule.signal[0]].combine_chunks()
    for field in rule.signal[1:]:
        column = column.field(field)
    measured: Values = column.to_numpy(zero_copy_only=False)
    return measured


def _rules(name: str, settings: Any) -> Iterator[Rule]:
    if settings is None:
        return
    for field in type(settings).model_fields:
        threshold = getattr(settings, field)
        if _is_rule(field) and threshold is not None:
            measure = _measure(field)
            path = (name, measure) if name else (measure,)
            yield Rule(".".join((*path[:-1], field)), path, threshold, field.startswith("min_"))


def _is_rule(field: str) -> bool:
    return field.startswith(("min_", "max_"))


def _measure(field: str) -> str:
    return field[len("min_") :]
