"""Settings that differ between recipes, by dotted name."""

from collections.abc import Sequence
from typing import Any


def differing(values: Sequence[Any], place: str = "") -> dict[str, list[Any]]:
    """Return the differences between these nested values: dotted name, and the value in each.

    Lists of equal length with nested members, such as a recipe's sources, are compared member by member; other lists
    differ as one value. A missing value is None.
    """
    first = values[0]
    if all(value == first and type(value) is type(first) for value in values):
        return {}
    if all(isinstance(value, dict) for value in values):
        names = dict.fromkeys(name for value in values for name in value)
        parts = [(str(name), [value.get(name) for value in values]) for name in names]
    elif all(isinstance(value, list) and _nested(value) and len(value) == len(first) for value in values):
        parts = [(str(number), [value[number] for value in values]) for number in range(len(first))]
    else:
        return {place: list(values)}
    found: dict[str, list[Any]] = {}
    for name, inner in parts:
        found |= differing(inner, f"{place}.{name}" if place else name)
    return found


def _nested(values: list[Any]) -> bool:
    return any(isinstance(value, dict) for value in values)
