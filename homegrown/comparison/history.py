"""The list of all runs, with their changed settings and their main metric."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from homegrown.config.pipelines import recipe_values
from homegrown.store import runs
from homegrown.store.artifacts import Store
from homegrown.store.differences import differing
from homegrown.store.manifest import Artifact
from homegrown.store.runs import RunRecord, State
from homegrown.util.errors import UserError

_OF = {"answers": " (answers)", "win-rate": " (chosen answers)", "pretrain": " (validation)"}


@dataclass(frozen=True)
class PastRun:
    """One run."""

    name: str
    recipe: str
    author: str | None
    """The user who started it; None in records of earlier versions."""
    sweep: str | None
    started: datetime
    finished: datetime | None
    state: State
    last: str | None
    """The last stage reached."""
    changed: dict[str, Any] | None
    """Settings that differ from `pipelines.yaml` today; None if the recipe is not in it.

    Settings newer than the run are left out.
    """
    bits_per_byte: float | None
    measured: str | None
    """The stage that measured it: `evaluate` on test text, `answers` and `win-rate` on held-out answers, `pretrain` on
    validation."""

    @property
    def headline(self) -> str:
        """Bits per byte as text."""
        if self.bits_per_byte is None:
            return ""
        return f"{self.bits_per_byte:.4f}{_OF.get(self.measured or '', '')}"

    @property
    def changes(self) -> str:
        """The changed settings as text."""
        return ", ".join(f"{name}={'null' if value is None else value}" for name, value in (self.changed or {}).items())

    def as_json(self) -> dict[str, Any]:
        """Return the run as plain values."""
        finished = self.finished.isoformat() if self.finished else None
        return vars(self) | {"started": self.started.isoformat(), "finished": finished}


def history(store: Store) -> list[PastRun]:
    """Return all runs, the oldest first."""
    records = runs.recorded(store)
    today = {name: _today(name) for name in {run.recipe["name"] for run in records.values()}}
    every = store.all()
    return [_past(store, name, run, today[run.recipe["name"]], every) for name, run in records.items()]


def _today(recipe: str) -> dict[str, Any] | None:
    try:
        return recipe_values(recipe)
    except UserError:
        return None  # renamed, or another working directory: the run is listed anyway


def _past(store: Store, name: str, run: RunRecord, today: dict[str, Any] | None, every: list[Artifact]) -> PastRun:
    measured, value = runs.measured(run, every) or (None, None)
    return PastRun(
        name=name,
        recipe=run.recipe["name"],
        author=run.author,
        sweep=run.sweep,
        started=run.started,
        finished=run.finished,
        state=runs.state(store, name, run),
        last=next(reversed(run.keys), None),
        changed=_changes(run.recipe, today),
        bits_per_byte=value,
        measured=measured,
    )


def _changes(recipe: dict[str, Any], today: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the changed settings of a run; for an export, which has no recipe, its arguments."""
    if "artifact" in recipe:
        return {name: recipe[name] for name in ("artifact", "type") if name in recipe}
    return None if today is None else _changed(recipe, today)


def _changed(recipe: dict[str, Any], today: dict[str, Any]) -> dict[str, Any]:
    return {name: then for name, (_, then) in differing([today, recipe]).items() if _knows(recipe, name)}


def _knows(recipe: Any, setting: str) -> bool:
    """Say whether a recorded recipe has a setting."""
    for part in setting.split("."):
        if isinstance(recipe, list):
            recipe = recipe[int(part)]
        elif isinstance(recipe, dict) and part in recipe:
            recipe = recipe[part]
        else:
            return False
    return True
