"""Why an artifact differs from the previous one: settings, raw input, code and inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from homegrown.store import runs
from homegrown.store.artifacts import Store
from homegrown.store.fingerprint import changed_modules
from homegrown.store.manifest import Artifact, Manifest, Order


@dataclass(frozen=True)
class Reason:
    """One difference to the previous artifact: a setting, a raw input, the code, or an input artifact."""

    kind: Literal["setting", "raw", "code", "input"]
    name: str
    before: Any = None
    now: Any = None

    def __str__(self) -> str:
        match self.kind:
            case "setting":
                return f"{self.name} {_short(self.before)} → {_short(self.now)}"
            case "raw":
                return f"other raw input ({self.name})"
            case "code":
                return f"other code of homegrown{f' ({self.name})' if self.name else ''}"
            case "input":
                return f"other {self.name}"


def reasons(store: Store, before: Manifest, order: Order) -> list[Reason]:
    """Return why the key of `order` differs from that of an artifact."""
    keyed = {
        group: {name: value for name, value in values.items() if name not in order.unkeyed[group]}
        if group in order.unkeyed and isinstance(values, dict)
        else values
        for group, values in before.settings.items()
    }
    return _reasons(store, (keyed, before.code, before.inputs), (order.keyed(), order.code, order.inputs))


def reasons_between(store: Store, before: Manifest, now: Manifest) -> list[Reason]:
    """Return in what two artifacts of a stage differ."""
    return _reasons(store, (before.settings, before.code, before.inputs), (now.settings, now.code, now.inputs))


def previous_of(store: Store, recipe: str, stage: str) -> Artifact | None:
    """Return the artifact of a stage that the last run of a recipe used; None without one."""
    records = runs.recorded(store)
    name = runs.latest_by_recipe(records).get(recipe, {}).get(stage)
    return runs.artifact_of(records[name], stage, store.all()) if name else None


def previous_version(store: Store, artifact: Artifact) -> Artifact | None:
    """Return what the same recipe used before an artifact, or the next lower version if no run is recorded."""
    stage, every = artifact.manifest.stage, store.all()
    before: dict[str, Artifact] = {}
    for run in runs.recorded(store).values():
        found, recipe = runs.artifact_of(run, stage, every), run.recipe["name"]
        if found == artifact:
            return before.get(recipe)
        if found:
            before[recipe] = found
    older = [one for one in every if one.manifest.stage == stage and one.manifest.version < artifact.manifest.version]
    return max(older, key=lambda one: one.manifest.version, default=None)


_Facts = tuple[Mapping[str, Any], str, Mapping[str, str]]


def _reasons(store: Store, one: _Facts, two: _Facts) -> list[Reason]:
    found = []
    for name, (before, now) in differing([one[0], two[0]]).items():
        group, _, rest = name.partition(".")
        if group == "raw":
            found.append(Reason("raw", rest or "all"))
        else:
            found.append(Reason("setting", name.removeprefix("settings."), before, now))
    if one[1] != two[1]:
        modules = changed_modules(store.root / ".state", one[1], two[1])
        shown = [name.removeprefix("homegrown.") for name in modules[:_SHOWN]]
        more = [f"{len(modules) - _SHOWN} more"] if len(modules) > _SHOWN else []
        found.append(Reason("code", ", ".join([*shown, *more])))
    names = dict.fromkeys([*one[2], *two[2]])
    return found + [Reason("input", name) for name in names if one[2].get(name) != two[2].get(name)]


def _short(value: Any) -> str:
    text = "null" if value is None else str(value)
    text = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)  # a separator of line ends
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


_LONGEST = 40
_SHOWN = 3


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
