"""All runs as a list: what each changed of its recipe, and the figure that matters most of what came out."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from homegrown.comparison.settings import differing
from homegrown.config.pipelines import recipe_values
from homegrown.store import runs
from homegrown.store.artifacts import Artifact, Store
from homegrown.store.runs import RunRecord, State
from homegrown.util.errors import UserError

_MEASURED = {
    "evaluate": "bits_per_byte",
    "answers": "fine_tuned_bits_per_byte",
    "pretrain": "validation_bits_per_byte",
}
_OF = {"answers": " (answers)", "pretrain": " (validation)"}


@dataclass(frozen=True)
class PastRun:
    """One run."""

    name: str
    recipe: str
    sweep: str | None
    started: datetime
    finished: datetime | None
    state: State
    last: str | None
    """The last stage that it reached."""
    changed: dict[str, Any] | None
    """Settings that are not as in `pipelines.yaml` today; None when the recipe is not there (any more).

    Settings that there were not yet when the run began are left out.
    """
    bits_per_byte: float | None
    measured: str | None
    """The stage that measured it: `evaluate` on test text, `answers` on held-out ones, `pretrain` on validation."""

    @property
    def headline(self) -> str:
        """Bits per byte in words."""
        if self.bits_per_byte is None:
            return ""
        return f"{self.bits_per_byte:.4f}{_OF.get(self.measured or '', '')}"

    @property
    def changes(self) -> str:
        """The changed settings in words."""
        return ", ".join(f"{name}={'null' if value is None else value}" for name, value in (self.changed or {}).items())

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
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
        return None  # the recipe was renamed, or homegrown was called elsewhere: the run is to be listed all the same


def _past(store: Store, name: str, run: RunRecord, today: dict[str, Any] | None, every: list[Artifact]) -> PastRun:
    measured, value = None, None
    for stage, metric in _MEASURED.items():
        artifact = runs.artifact_of(run, stage, every)
        found = artifact.manifest.metrics.get(metric) if artifact else None
        if found is not None:
            measured, value = stage, float(found)
            break
    return PastRun(
        name=name,
        recipe=run.recipe["name"],
        sweep=run.sweep,
        started=run.started,
        finished=run.finished,
        state=runs.state(store, name, run),
        last=next(reversed(run.keys), None),
        changed=_asked(run.recipe, today),
        bits_per_byte=value,
        measured=measured,
    )


def _asked(recipe: dict[str, Any], today: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what a run changed of its recipe; of an export, which has none, what it was asked for."""
    if "artifact" in recipe:
        return {name: recipe[name] for name in ("artifact", "type") if name in recipe}
    return None if today is None else _changed(recipe, today)


def _changed(recipe: dict[str, Any], today: dict[str, Any]) -> dict[str, Any]:
    return {name: then for name, (_, then) in differing([today, recipe]).items() if _knows(recipe, name)}


def _knows(recipe: Any, setting: str) -> bool:
    """Say whether a recorded recipe has a setting at all."""
    for part in setting.split("."):
        if isinstance(recipe, list):
            recipe = recipe[int(part)]
        elif isinstance(recipe, dict) and part in recipe:
            recipe = recipe[part]
        else:
            return False
    return True
