"""Records of runs: the artifacts that each run reached, written while it runs, and its state."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from homegrown.store.artifacts import Store, explained
from homegrown.store.manifest import Artifact
from homegrown.util import locks
from homegrown.util.errors import UserError
from homegrown.util.files import replacing
from homegrown.util.users import user_name

State = Literal["finished", "running", "stopped"]
MEASURED = {
    "evaluate": "bits_per_byte",
    "answers": "fine_tuned_bits_per_byte",
    "win-rate": "fine_tuned_bits_per_byte",
    "pretrain": "validation_bits_per_byte",
}
"""The metric in bits per byte of each stage that has one, the best measurement first."""
_UNFIT = re.compile(r"[/\\\x00-\x1f]")
"""Characters of a name that a person gave and that cannot be in a file's name."""
_LONGEST_NAME = 180


class RunRecord(BaseModel):
    """A run of a recipe with its artifacts; stored as `<store>/runs/<name>.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    recipe: dict[str, Any]
    started: datetime
    finished: datetime | None = None
    sweep: str | None = None
    """Name of the sweep that the run belongs to."""
    author: str | None = None
    """Name of the user whose process it was; None in records of earlier versions."""
    keys: dict[str, str] = {}
    """Key of the artifact by stage, for the stages that the run has finished."""
    folders: dict[str, str] = {}
    """Name of the artifact's folder by stage; it tells which of several versions with one key the run used."""
    making: str | None = None
    """Key of the artifact that the run looks up, makes or failed to make."""

    @property
    def needed(self) -> set[str]:
        """Keys of all artifacts that the run has or needs next."""
        return {*self.keys.values(), *([self.making] if self.making else [])}


class Ongoing:
    """The record of a run in this process."""

    def __init__(self, store: Store, name: str, run: RunRecord) -> None:
        self.name = name
        self._store = store
        self._run = run
        self._write()

    def reach(self, key: str) -> None:
        """Record the key of the next artifact before its lookup; garbage collection then keeps the artifact."""
        self._write(making=key)

    def made(self, stage: str, key: str, folder: str) -> None:
        """Record the artifact that a stage made or found."""
        keys, folders = self._run.keys | {stage: key}, self._run.folders | {stage: folder}
        self._write(keys=keys, folders=folders, making=None)

    def completed(self, recipe: Mapping[str, Any]) -> None:
        """Record the recipe, which depends on what the first stages made."""
        self._write(recipe=dict(recipe))

    def finish(self) -> None:
        """Record the end of the run."""
        self._write(finished=datetime.now(UTC))

    def _write(self, **news: Any) -> None:
        self._run = self._run.model_copy(update=news)
        with collection_lock(self._store):
            record(self._store, self.name, self._run)


@contextmanager
def ongoing(store: Store, name: str, recipe: Mapping[str, Any], sweep: str | None = None) -> Iterator[Ongoing]:
    """Keep the record of a run for the block; a name that another run has gets a number, and slashes become dashes.

    A lock, which the kernel frees, marks the run as running. A block that ends without an error finishes the run.
    """
    found = _free_name(store, _UNFIT.sub("-", name)[:_LONGEST_NAME].lstrip(".") or "run")
    try:
        started = RunRecord(recipe=dict(recipe), started=datetime.now(UTC), sweep=sweep, author=user_name())
        log = Ongoing(store, found, started)
        yield log
        log.finish()
    finally:
        locks.release(_lock(store, found))


def record(store: Store, name: str, run: RunRecord) -> None:
    """Write the record of a run; a later call with the same name replaces it.

    Raises:
        UserError: the disk is full, or the store belongs to another user.
    """
    try:
        with replacing(store.root / "runs" / f"{name}.json") as temporary:
            temporary.write_text(run.model_dump_json(indent=2) + "\n")
    except OSError as error:
        raise (explained(error, store.root) or error) from error


def recorded(store: Store) -> dict[str, RunRecord]:
    """Return all runs by name, oldest first."""
    found = {}
    for file in store.root.glob("runs/[!.]*.json"):
        try:
            found[file.stem] = RunRecord.model_validate_json(file.read_bytes())
        except OSError as error:
            raise UserError(f"{file} cannot be read ({error.strerror}); make it readable or delete it.") from error
        except ValidationError as error:
            raise UserError(f"{file} is not a valid record of a run; delete it.") from error
    return dict(sorted(found.items(), key=lambda item: item[1].started))


def state(store: Store, name: str, run: RunRecord) -> State:
    """Return whether a run finished, runs in a process of this machine, or stopped before its end."""
    if run.finished:
        return "finished"
    return "stopped" if locks.is_free(_lock(store, name)) else "running"


def latest_by_recipe(records: Mapping[str, RunRecord]) -> dict[str, dict[str, str]]:
    """Return for each recipe and stage the last run that made or found the stage's artifact."""
    current: dict[str, dict[str, str]] = {}
    for name, run in records.items():
        current.setdefault(run.recipe["name"], {}).update(dict.fromkeys(run.keys, name))
    return current


def artifact_of(run: RunRecord, stage: str, every: list[Artifact]) -> Artifact | None:
    """Return the artifact that a run used for a stage, or the newest with its key; None if all are deleted."""
    key = run.keys.get(stage)
    found = [one for one in every if (one.manifest.stage, one.manifest.key) == (stage, key)]
    used = [one for one in found if one.path.name == run.folders.get(stage)]
    return max(used or found, key=lambda one: one.manifest.version, default=None)


def measured(run: RunRecord, every: list[Artifact]) -> tuple[str, float] | None:
    """Return the stage that measured the run's model best, and its bits per byte; None if none did."""
    for stage in MEASURED:
        artifact = artifact_of(run, stage, every)
        if artifact and (value := bits_per_byte(artifact)) is not None:
            return stage, value
    return None


def bits_per_byte(artifact: Artifact) -> float | None:
    """Return the bits per byte that an artifact's stage measured; None for other stages."""
    value = artifact.manifest.metrics.get(MEASURED.get(artifact.manifest.stage, ""))
    return None if value is None else float(value)


@contextmanager
def collection_lock(store: Store) -> Iterator[None]:
    """Take the lock that keeps runs from reusing artifacts while garbage collection decides about them."""
    with locks.exclusive(store.root / ".state" / "locks" / "garbage"):
        yield


def _free_name(store: Store, name: str) -> str:
    """Return the first of `name`, `name-2`, `name-3`, … that no run has, and take its lock."""
    number, candidate = 1, name
    while True:
        if locks.try_acquire(_lock(store, candidate)):
            if not (store.root / "runs" / f"{candidate}.json").exists():
                return candidate
            locks.release(_lock(store, candidate))
        number += 1
        candidate = f"{name}-{number}"


def _lock(store: Store, name: str) -> Path:
    return store.root / ".state" / "locks" / f"run.{name}"
