"""Garbage collection: deletes artifacts that no recent run, no server and no kept artifact needs."""

import json
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from homegrown.store import runs
from homegrown.store.artifacts import KEY_DIGITS, Store
from homegrown.store.manifest import Artifact
from homegrown.store.runs import RunRecord
from homegrown.util import locks
from homegrown.util.errors import UserError
from homegrown.util.files import replacing


@dataclass(frozen=True)
class Garbage:
    """An unneeded folder: the reason to delete it, its size in bytes, and the metrics of its stage."""

    path: Path
    reason: str
    bytes: int
    bits_per_byte: float | None = None


def garbage(
    store: Store, keep_runs: int, keep: list[str], *, keep_days: int | None = None, max_bytes: int | None = None
) -> list[Garbage]:
    """List the folders that neither a kept run nor one of the artifacts `keep` (`stage@version`) depends on.

    Kept are the last `keep_runs` runs of each recipe that made something (a sweep counts as one run) and all later
    ones, the runs of the last `keep_days` days, the best model of each recipe by bits per byte, and the last artifact
    of each recipe and stage, so that failed and partial runs never displace the last model; with `keep_runs` 0 and no
    `keep_days`, none of these is kept. Running runs and models that a process has loaded are always kept, with every
    version of the artifacts that they reached.

    If the store is then larger than `max_bytes`, the oldest of the kept runs lose their artifacts until it is not; last
    artifacts, best models, named artifacts and those in use stay.

    Garbage is: artifacts that nothing kept depends on; versions with a newer complete version of the same key; folders
    without a readable manifest; partial folders that no process works in and no kept run started; and interrupted
    deletions.
    """
    records = runs.recorded(store)
    running = [run for name, run in records.items() if runs.state(store, name, run) == "running"]
    every, named = store.all(), [store.resolve(name) for name in keep]
    by_key: dict[str, list[Artifact]] = {}
    for artifact in every:
        by_key.setdefault(artifact.manifest.key, []).append(artifact)
    in_use = _reached(_needed(running) | _loaded(store), by_key)
    protected: set[str] = {one.manifest.key for one in named}
    recent: list[RunRecord] = []
    if keep_runs or keep_days is not None:
        recent = _recent(store, records, by_key, keep_runs, keep_days)
        protected |= _current(records) | _best(records, every)
    needed = in_use | _reached(protected, by_key)
    found = _Folders(store, every, by_key, in_use, named)
    wanted = needed | _reached(_needed(recent), by_key)
    unneeded = found.unneeded(wanted)
    if max_bytes is not None and found.size_without(unneeded) > max_bytes:
        for run in sorted(recent, key=lambda run: run.started, reverse=True):
            more = needed | _reached(run.needed, by_key)
            if found.size_without(found.unneeded(more)) > max_bytes:
                break
            needed = more
        unneeded = dict.fromkeys(found.unneeded(needed), "over the size budget") | unneeded
    figures = {one.path: runs.bits_per_byte(one) for one in every}
    return [Garbage(path, reason, found.sizes[path], figures.get(path)) for path, reason in sorted(unneeded.items())]


class _Folders:
    """The folders of a store with their sizes, and which of them a choice of keys needs."""

    def __init__(
        self,
        store: Store,
        every: list[Artifact],
        by_key: dict[str, list[Artifact]],
        in_use: set[str],
        named: list[Artifact],
    ) -> None:
        self._every = every
        self._in_use = in_use
        self._named = named
        self._newest = {key: _newest_complete(store, versions) for key, versions in by_key.items()}
        self._damaged, self._trash, self._interrupted = store.damaged(), store.trash(), store.interrupted()
        folders = [*(one.path for one in every), *self._damaged, *self._trash, *self._interrupted]
        self.sizes = {path: size_on_disk(path) for path in folders}
        """Size in bytes of every folder that could be deleted."""
        self._total = size_on_disk(store.root)

    def unneeded(self, needed: set[str]) -> dict[Path, str]:
        """Return the folders that artifacts with these keys do not need, each with the reason."""
        found = dict.fromkeys(self._damaged, "no readable manifest")
        started = {key[:KEY_DIGITS] for key in needed}
        for partial in self._interrupted:
            if partial.name.removesuffix(".partial").split("-")[1] not in started:
                found[partial] = "interrupted"
        for artifact in self._every:
            key = artifact.manifest.key
            if key not in needed:
                found[artifact.path] = "no recent run uses it"
            elif artifact != self._newest[key] and key not in self._in_use and artifact not in self._named:
                found[artifact.path] = "replaced by a newer version"
        return found | dict.fromkeys(self._trash, "interrupted deletion")

    def size_without(self, folders: Iterable[Path]) -> int:
        """Return the size of the store in bytes without these folders."""
        return self._total - sum(self.sizes[path] for path in folders)


def collect(
    store: Store, keep_runs: int, keep: list[str], *, keep_days: int | None = None, max_bytes: int | None = None
) -> tuple[list[Garbage], list[Garbage]]:
    """Delete the garbage; return the deleted folders and those that were left because a process works in them.

    A lock keeps runs from reusing an artifact between the decision and the deletion.
    """
    deleted: list[Garbage] = []
    left: list[Garbage] = []
    with runs.collection_lock(store):
        for item in garbage(store, keep_runs, keep, keep_days=keep_days, max_bytes=max_bytes):
            (deleted if store.delete(item.path) else left).append(item)
    return deleted, left


def size_on_disk(folder: Path) -> int:
    """Return the total size of a folder's files; files and folders deleted meanwhile are skipped."""

    def failed(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    total = 0
    for parent, _, names in os.walk(folder, onerror=failed):  # `Path.rglob` ends where a folder is renamed meanwhile
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(parent, name).stat().st_size
    return total


@contextmanager
def loaded(store: Store, artifacts: Iterable[Artifact]) -> Iterator[None]:
    """Protect artifacts that this process has loaded, with their inputs, during the block.

    In a store that cannot be written they are not protected.

    Raises:
        UserError: one was just deleted.
    """
    name = f"{os.getpid()}-{uuid.uuid4().hex}"
    note, lock = _notes(store) / f"{name}.json", _note_lock(store, name)
    chosen = list(artifacts)
    noted = False
    try:
        with runs.collection_lock(store), replacing(note) as temporary:
            locks.acquire(lock)
            noted = True
            temporary.write_text(json.dumps([one.manifest.key for one in chosen]))
    except OSError:
        pass
    try:
        if gone := next((one.name for one in chosen if not one.path.exists()), None):
            raise UserError(f"{gone} was deleted; run its pipeline again.")
        yield
    finally:
        if noted:
            note.unlink(missing_ok=True)
            locks.release(lock)


def _loaded(store: Store) -> set[str]:
    """Return the keys of the artifacts that living processes have loaded."""
    found: set[str] = set()
    for note in _notes(store).glob("[!.]*.json"):
        if not locks.is_free(_note_lock(store, note.stem)):
            found.update(json.loads(note.read_text()))
    return found


def _notes(store: Store) -> Path:
    return store.root / ".state" / "loaded"


def _note_lock(store: Store, name: str) -> Path:
    return store.root / ".state" / "locks" / f"loaded.{name}"


def _recent(
    store: Store, records: dict[str, RunRecord], by_key: dict[str, list[Artifact]], most: int, days: int | None
) -> list[RunRecord]:
    """Return the last `most` runs of each recipe that made something, all later ones, and those of the last `days`.

    A sweep counts as one run.
    """
    groups: dict[str, dict[str, list[RunRecord]]] = {}
    for name, run in records.items():
        groups.setdefault(run.recipe["name"], {}).setdefault(run.sweep or f"run {name}", []).append(run)
    partials = {partial.name.removesuffix(".partial").split("-")[1] for partial in store.partials()}
    since = None if days is None else datetime.now(UTC) - timedelta(days=days)
    found: list[RunRecord] = []
    for of_recipe in groups.values():
        left = most
        for group in reversed(of_recipe.values()):
            if left:
                found += group
                left -= any(_made_something(run, by_key, partials) for run in group)
            elif since is not None:
                found += [run for run in group if (run.finished or run.started) >= since]
    return found


def _made_something(run: RunRecord, by_key: dict[str, list[Artifact]], partials: set[str]) -> bool:
    """Return whether a run made an artifact that is still there, or began one that can be resumed."""
    if run.making and run.making[:KEY_DIGITS] in partials:
        return True
    return any(one.manifest.started >= run.started for key in run.keys.values() for one in by_key.get(key, []))


def _best(records: dict[str, RunRecord], every: list[Artifact]) -> set[str]:
    """Return the keys that the best model of each recipe needs, by each measurement in bits per byte."""
    best: dict[tuple[str, str], tuple[float, RunRecord]] = {}
    for run in records.values():
        if measured := runs.measured(run, every):
            stage, value = measured
            place = (run.recipe["name"], stage)
            if place not in best or value < best[place][0]:
                best[place] = (value, run)
    return _needed(run for _, run in best.values())


def _current(records: dict[str, RunRecord]) -> set[str]:
    latest = runs.latest_by_recipe(records)
    return {records[name].keys[stage] for stages in latest.values() for stage, name in stages.items()}


def _needed(records: Iterable[RunRecord]) -> set[str]:
    return {key for run in records for key in run.needed}


def _reached(keys: Iterable[str], by_key: dict[str, list[Artifact]]) -> set[str]:
    """Return these keys and those of all artifacts that they depend on."""
    found: set[str] = set()
    waiting = list(keys)
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            waiting += [made_from for one in by_key.get(key, []) for made_from in one.manifest.inputs.values()]
    return found


def _newest_complete(store: Store, versions: list[Artifact]) -> Artifact:
    """Return the version that a run would use; files are checked only if there are several."""
    if len(versions) == 1:
        return versions[0]
    return next((one for one in reversed(versions) if not store.damage(one)), versions[-1])
