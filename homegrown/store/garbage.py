"""Garbage collection: freeing what no recent or named run needs."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from homegrown.store import runs
from homegrown.store.artifacts import KEY_DIGITS, Artifact, Store
from homegrown.store.runs import RunRecord


@dataclass(frozen=True)
class Garbage:
    """A folder that nothing needs, why, and its size in bytes."""

    path: Path
    reason: str
    bytes: int


def garbage(store: Store, keep_runs: int, keep: list[str]) -> list[Garbage]:
    """List what neither a run worth keeping nor the artifacts `keep` (`stage@version`) stand on.

    Worth keeping are the last `keep_runs` runs of each recipe, all runs of one sweep counted as one, and with them what
    is current: of each recipe and stage the last that there was, so that failures and partial runs never push out the
    last model. Of 0 runs nothing is kept. A run that goes on just now is kept in any case, with every version of
    what it reached.

    Garbage, then, is what these do not reach, versions superseded by a newer whole one of the same key, folders without
    a readable manifest, partial folders that nobody is at and none of these runs began, and what killed deletions left.
    """
    records = runs.recorded(store)
    running = [run for name, run in records.items() if runs.state(store, name, run) == "running"]
    every, named = store.all(), [store.resolve(name) for name in keep]
    by_key: dict[str, list[Artifact]] = {}
    for artifact in every:
        by_key.setdefault(artifact.manifest.key, []).append(artifact)
    in_use = _reached(_needed(running), by_key)
    wanted = in_use | _reached(
        _needed(_recent(records, keep_runs)) | _current(records, keep_runs) | {one.manifest.key for one in named},
        by_key,
    )
    newest = {key: _newest_whole(store, versions) for key, versions in by_key.items()}

    unneeded = dict.fromkeys(store.damaged(), "it has no readable manifest")
    begun = {key[:KEY_DIGITS] for key in wanted}
    for partial in store.interrupted():
        if partial.name.removesuffix(".partial").split("-")[1] not in begun:
            unneeded[partial] = "interrupted, and nobody is at it"
    for artifact in every:
        key = artifact.manifest.key
        if key not in wanted:
            unneeded[artifact.path] = "no recent run reaches it"
        elif artifact != newest[key] and key not in in_use and artifact not in named:
            unneeded[artifact.path] = "superseded by a newer version"
    unneeded |= dict.fromkeys(store.trash(), "its deletion was interrupted")
    return [Garbage(path, reason, size_on_disk(path)) for path, reason in sorted(unneeded.items())]


def collect(store: Store, keep_runs: int, keep: list[str]) -> tuple[list[Garbage], list[Garbage]]:
    """Delete what is garbage; return what was deleted, and what was left because somebody works in it.

    No run can take up an artifact between the judgement and the deletion.
    """
    deleted: list[Garbage] = []
    left: list[Garbage] = []
    with runs.collection_lock(store):
        for item in garbage(store, keep_runs, keep):
            (deleted if store.delete(item.path) else left).append(item)
    return deleted, left


def size_on_disk(folder: Path) -> int:
    """Return the bytes of all files in a folder; one that is deleted meanwhile counts nothing."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def _recent(records: dict[str, RunRecord], most: int) -> list[RunRecord]:
    """Return the last `most` runs of each recipe; all runs of a sweep are one."""
    groups: dict[str, dict[str, list[RunRecord]]] = {}
    for name, run in records.items():
        groups.setdefault(run.recipe["name"], {}).setdefault(run.sweep or f"run {name}", []).append(run)
    return [
        run
        for of_recipe in groups.values()
        for group in list(of_recipe.values())[max(len(of_recipe) - most, 0) :]
        for run in group
    ]


def _current(records: dict[str, RunRecord], keep_runs: int) -> set[str]:
    if not keep_runs:
        return set()
    latest = runs.latest_by_recipe(records)
    return {records[name].keys[stage] for stages in latest.values() for stage, name in stages.items()}


def _needed(records: Iterable[RunRecord]) -> set[str]:
    return {key for run in records for key in run.needed}


def _reached(keys: Iterable[str], by_key: dict[str, list[Artifact]]) -> set[str]:
    """Return these keys and those of all that their artifacts were made from."""
    found: set[str] = set()
    waiting = list(keys)
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            waiting += [made_from for one in by_key.get(key, []) for made_from in one.manifest.inputs.values()]
    return found


def _newest_whole(store: Store, versions: list[Artifact]) -> Artifact:
    """Return the version that a run would take; files are looked at only where there is a choice."""
    if len(versions) == 1:
        return versions[0]
    return next((one for one in reversed(versions) if not store.damage(one)), versions[-1])
