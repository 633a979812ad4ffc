"""What each run reached, and garbage collection: freeing what no recent or named run needs."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from homegrown.artifacts import Store
from homegrown.errors import UserError
from homegrown.files import replacing


class RunRecord(BaseModel):
    """One run of a recipe and the artifacts that it reached; stored as `<store>/runs/<name>.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    recipe: dict[str, Any]
    started: datetime
    finished: datetime | None = None
    keys: dict[str, str] = {}
    """Key of the artifact by stage."""


@dataclass(frozen=True)
class Garbage:
    """A folder that nothing needs, why, and its size in bytes."""

    path: Path
    reason: str
    bytes: int


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


def garbage(store: Store, keep_runs: int, keep: list[str]) -> list[Garbage]:
    """List what neither the last `keep_runs` runs of each recipe nor the artifacts `keep` (`stage@version`) stand on.

    That includes versions superseded by a newer one of the same key, folders without a readable manifest, and partial
    folders of interrupted work that nobody is at.
    """
    by_recipe: dict[str, list[RunRecord]] = {}
    for run in recorded(store).values():
        by_recipe.setdefault(run.recipe["name"], []).append(run)
    every = store.all()
    newest = {artifact.manifest.key: artifact for artifact in every}
    wanted = {
        key for runs in by_recipe.values() for run in runs[max(len(runs) - keep_runs, 0) :] for key in run.keys.values()
    }
    roots = [newest[key] for key in wanted if key in newest] + [store.resolve(name) for name in keep]
    reached = {artifact.path for root in roots for artifact in (root, *store.lineage(root))}

    unneeded = dict.fromkeys(store.damaged(), "it has no readable manifest")
    unneeded |= dict.fromkeys(store.interrupted(), "interrupted, and nobody is at it")
    for artifact in every:
        if artifact.path not in reached:
            superseded = newest[artifact.manifest.key] is not artifact
            unneeded[artifact.path] = "superseded by a newer version" if superseded else "no recent run reaches it"
    return [Garbage(path, reason, _size(path)) for path, reason in sorted(unneeded.items())]


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
