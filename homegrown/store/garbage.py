"""Garbage collection: deletes artifacts that no recent run and no kept artifact needs."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from homegrown.store import runs
from homegrown.store.artifacts import KEY_DIGITS, Artifact, Store
from homegrown.store.runs import RunRecord


@dataclass(frozen=True)
class Garbage:
    """A folder that nothing needs, with the reason and its size in bytes."""

    path: Path
    reason: str
    bytes: int


def garbage(store: Store, keep_runs: int, keep: list[str]) -> list[Garbage]:
    """List the folders that neither a kept run nor one of the artifacts `keep` (`stage@version`) depends on.

    Kept are the last `keep_runs` runs of each recipe (a sweep counts as one run) and the last artifact of each recipe
    and stage, so that failed and partial runs never displace the last model; with `keep_runs` 0, neither is kept.
    Running runs are always kept, with every version of the artifacts that they reached.

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
    in_use = _reached(_needed(running), by_key)
    needed = in_use | _reached(
        _needed(_recent(records, keep_runs)) | _current(records, keep_runs) | {one.manifest.key for one in named},
        by_key,
    )
    newest = {key: _newest_complete(store, versions) for key, versions in by_key.items()}

    unneeded = dict.fromkeys(store.damaged(), "no readable manifest")
    started = {key[:KEY_DIGITS] for key in needed}
    for partial in store.interrupted():
        if partial.name.removesuffix(".partial").split("-")[1] not in started:
            unneeded[partial] = "interrupted"
    for artifact in every:
        key = artifact.manifest.key
        if key not in needed:
            unneeded[artifact.path] = "no recent run uses it"
        elif artifact != newest[key] and key not in in_use and artifact not in named:
            unneeded[artifact.path] = "replaced by a newer version"
    unneeded |= dict.fromkeys(store.trash(), "interrupted deletion")
    return [Garbage(path, reason, size_on_disk(path)) for path, reason in sorted(unneeded.items())]


def collect(store: Store, keep_runs: int, keep: list[str]) -> tuple[list[Garbage], list[Garbage]]:
    """Delete the garbage; return the deleted folders and those that were left because a process works in them.

    A lock keeps runs from reusing an artifact between the decision and the deletion.
    """
    deleted: list[Garbage] = []
    left: list[Garbage] = []
    with runs.collection_lock(store):
        for item in garbage(store, keep_runs, keep):
            (deleted if store.delete(item.path) else left).append(item)
    return deleted, left


def size_on_disk(folder: Path) -> int:
    """Return the total size of a folder's files; files deleted meanwhile are skipped."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def _recent(records: dict[str, RunRecord], most: int) -> list[RunRecord]:
    """Return the last `most` runs of each recipe; a sweep counts as one run."""
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
