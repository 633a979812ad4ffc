"""The content of the store: which versions are current, which runs used each, and their sizes on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homegrown.store import runs
from homegrown.store.artifacts import Store
from homegrown.store.garbage import size_on_disk
from homegrown.store.manifest import Artifact
from homegrown.store.runs import RunRecord


@dataclass(frozen=True)
class Entry:
    """One version of an artifact and its users."""

    artifact: Artifact
    newest: bool
    """Whether it is the newest complete version of its stage, which the stage's name means."""
    recipes: list[str]
    """Recipes whose last run that reached the stage used it."""
    runs: list[str]
    """All runs that used it, oldest first."""
    bytes: int
    """Size on disk, with the manifest."""

    def as_json(self) -> dict[str, Any]:
        """Return the entry as plain values."""
        manifest = self.artifact.manifest
        return {
            "artifact": self.artifact.name,
            "newest": self.newest,
            "current_for": self.recipes,
            "runs": self.runs,
            "key": manifest.key,
            "made": manifest.started.isoformat(),
            "seconds": manifest.seconds,
            "rows": manifest.rows_out,
            "unit": manifest.unit,
            "bytes": self.bytes,
            "path": str(self.artifact.path),
        }


@dataclass(frozen=True)
class Unfinished:
    """A folder of unfinished work and its size on disk in bytes."""

    path: Path
    state: str
    bytes: int


def inventory(store: Store, records: dict[str, RunRecord]) -> list[Entry]:
    """Return every published artifact, in the order of the stages in runs and by version."""
    every = store.all()
    order = list(dict.fromkeys(stage for run in records.values() for stage in run.keys))
    users: dict[Path, list[str]] = {}
    for name, run in records.items():
        for stage in run.keys:
            if artifact := runs.artifact_of(run, stage, every):
                users.setdefault(artifact.path, []).append(name)
    recipes: dict[Path, list[str]] = {}
    for recipe, stages in runs.latest_by_recipe(records).items():
        for stage, name in stages.items():
            if artifact := runs.artifact_of(records[name], stage, every):
                recipes.setdefault(artifact.path, []).append(recipe)
    newest = _newest(store, every)
    return [
        Entry(
            artifact=artifact,
            newest=artifact.path in newest,
            recipes=recipes.get(artifact.path, []),
            runs=users.get(artifact.path, []),
            bytes=size_on_disk(artifact.path),
        )
        for artifact in sorted(every, key=lambda one: (_rank(order, one.manifest.stage), one.manifest.version))
    ]


@dataclass(frozen=True)
class DiskUse:
    """The disk space of the artifacts that the runs of one recipe used; of unused artifacts if the recipe is None."""

    recipe: str | None
    artifacts: int
    bytes: int
    own_bytes: int
    """Size of the artifacts that no other recipe used."""

    def as_json(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        return vars(self)


def disk_use(entries: list[Entry], records: dict[str, RunRecord]) -> list[DiskUse]:
    """Return the disk use of each recipe, the largest first, and of artifacts that no run used."""
    shares: dict[str | None, list[tuple[int, bool]]] = {}
    for entry in entries:
        recipes: set[str | None] = {records[name].recipe["name"] for name in entry.runs}
        for recipe in recipes or {None}:
            shares.setdefault(recipe, []).append((entry.bytes, len(recipes) < 2))
    found = [
        DiskUse(recipe, len(sizes), sum(size for size, _ in sizes), sum(size for size, own in sizes if own))
        for recipe, sizes in shares.items()
    ]
    return sorted(found, key=lambda use: (use.recipe is None, -use.bytes))


def unfinished(store: Store) -> list[Unfinished]:
    """Return the partial folders and the interrupted deletions."""
    interrupted = store.interrupted()
    found = [(path, "interrupted" if path in interrupted else "being made") for path in store.partials()]
    found += [(path, "interrupted deletion; gc deletes it") for path in store.trash()]
    return [Unfinished(path, state, size_on_disk(path)) for path, state in found]


def _rank(order: list[str], stage: str) -> tuple[int, str]:
    """Return the sort key of a stage; stages that no run reached come last."""
    return (order.index(stage) if stage in order else len(order), stage)


def _newest(store: Store, every: list[Artifact]) -> set[Path]:
    """Return the folder of the newest complete version of each stage."""
    found: dict[str, Path] = {}
    for artifact in reversed(every):
        if artifact.manifest.stage not in found and not store.damage(artifact):
            found[artifact.manifest.stage] = artifact.path
    return set(found.values())
