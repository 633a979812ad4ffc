"""What each run reached: a record that is written as the run goes on, and whether it still does."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from homegrown.store.artifacts import Artifact, Store
from homegrown.util import locks
from homegrown.util.errors import UserError
from homegrown.util.files import replacing

State = Literal["finished", "running", "stopped"]


class RunRecord(BaseModel):
    """One run of a recipe and the artifacts that it reached; stored as `<store>/runs/<name>.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    recipe: dict[str, Any]
    started: datetime
    finished: datetime | None = None
    sweep: str | None = None
    """Name of the sweep that the run is a part of."""
    keys: dict[str, str] = {}
    """Key of the artifact by stage, as far as the run has come."""
    folders: dict[str, str] = {}
    """Name of the artifact's folder by stage: of several versions with one key, the one that the run took."""
    making: str | None = None
    """Key of the artifact that the run is about to look up or make, or that it failed at."""

    @property
    def needed(self) -> set[str]:
        """Keys of all artifacts that the run has, or wants next."""
        return {*self.keys.values(), *([self.making] if self.making else [])}


class Ongoing:
    """The record of a run that goes on in this process."""

    def __init__(self, store: Store, name: str, run: RunRecord) -> None:
        self.name = name
        self._store = store
        self._run = run
        self._write()

    def reach(self, key: str) -> None:
        """Say which artifact is looked up next, before it is: from then on garbage collection leaves it alone."""
        self._write(making=key)

    def made(self, stage: str, key: str, folder: str) -> None:
        """Say which artifact a stage made or found."""
        keys, folders = self._run.keys | {stage: key}, self._run.folders | {stage: folder}
        self._write(keys=keys, folders=folders, making=None)

    def finish(self) -> None:
        """Say that the run has come to its end."""
        self._write(finished=datetime.now(UTC))

    def _write(self, **news: Any) -> None:
        self._run = self._run.model_copy(update=news)
        with collection_lock(self._store):
            record(self._store, self.name, self._run)


@contextmanager
def ongoing(store: Store, name: str, recipe: Mapping[str, Any], sweep: str | None = None) -> Iterator[Ongoing]:
    """Keep the record of a run for the block; a number is added to a name that another run has.

    A lock that the kernel frees says that the run goes on. Where the block ends without an error, the run is finished.
    """
    found = _free_name(store, name)
    try:
        log = Ongoing(store, found, RunRecord(recipe=dict(recipe), started=datetime.now(UTC), sweep=sweep))
        yield log
        log.finish()
    finally:
        locks.release(_lock(store, found))


def record(store: Store, name: str, run: RunRecord) -> None:
    """Keep what a run reached so far; called again under the same name as the run goes on."""
    with replacing(store.root / "runs" / f"{name}.json") as temporary:
        temporary.write_text(run.model_dump_json(indent=2) + "\n")


def recorded(store: Store) -> dict[str, RunRecord]:
    """Return all runs by name, oldest first."""
    found = {}
    for file in store.root.glob("runs/[!.]*.json"):
        try:
            found[file.stem] = RunRecord.model_validate_json(file.read_bytes())
        except ValidationError as error:
            raise UserError(f"{file} is no record of a run; delete it.") from error
    return dict(sorted(found.items(), key=lambda item: item[1].started))


def state(store: Store, name: str, run: RunRecord) -> State:
    """Say whether a run came to its end, goes on in some process of this machine, or stopped before its end."""
    if run.finished:
        return "finished"
    return "stopped" if locks.is_free(_lock(store, name)) else "running"


def latest_by_recipe(records: Mapping[str, RunRecord]) -> dict[str, dict[str, str]]:
    """Return what is current for each recipe: by stage, the last run that has made or found it."""
    current: dict[str, dict[str, str]] = {}
    for name, run in records.items():
        current.setdefault(run.recipe["name"], {}).update(dict.fromkeys(run.keys, name))
    return current


def artifact_of(run: RunRecord, stage: str, every: list[Artifact]) -> Artifact | None:
    """Return the artifact of a stage that a run took, or else the newest of its key; None where all are gone."""
    key = run.keys.get(stage)
    found = [one for one in every if (one.manifest.stage, one.manifest.key) == (stage, key)]
    taken = [one for one in found if one.path.name == run.folders.get(stage)]
    return max(taken or found, key=lambda one: one.manifest.version, default=None)


@contextmanager
def collection_lock(store: Store) -> Iterator[None]:
    """Hold, for the block, what keeps a run from taking up an artifact while garbage collection judges it."""
    with locks.exclusive(store.root / ".state" / "locks" / "garbage"):
        yield


def _free_name(store: Store, name: str) -> str:
    """Return `name`, or the first of `name-2`, `name-3`, … that no run has, its lock held by this process."""
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
