"""Which settings differ between recipes, by their dotted names."""

from collections.abc import Sequence
from typing import Any


def differing(values: Sequence[Any], place: str = "") -> dict[str, list[Any]]:
    """Return what is not the same in all of these nested values: its dotted name, and the value in each.

    A list is looked into where it has as many members in each, as a recipe's sources; otherwise it differs as a whole.
    What one lacks is None.
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
