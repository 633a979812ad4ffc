"""Run records and garbage collection."""

from datetime import UTC, datetime, timedelta

import pytest

from homegrown import locks, runs
from homegrown.artifacts import Artifact, Order, Store, partial_of
from homegrown.errors import UserError
from homegrown.outcome import Outcome


def make(store: Store, stage: str, value: int, *inputs: Artifact, fresh: bool = False) -> Artifact:
    keys = {one.manifest.stage: one.manifest.key for one in inputs}
    wanted = Order(stage, "code", {"value": value}, keys)
    return store.make(wanted, store.slot(stage, wanted.key, fresh=fresh), lambda out: Outcome(1, 1))[0]


def record(store: Store, name: str, age: int, *reached: Artifact, recipe: str = "tiny") -> None:
    started = datetime.now(UTC) - timedelta(hours=age)
    keys = {one.manifest.stage: one.manifest.key for one in reached}
    runs.record(store, name, runs.RunRecord(recipe={"name": recipe}, started=started, keys=keys))


def test_garbage_is_what_no_recent_run_stands_on(store: Store) -> None:
    raw = make(store, "ingest", 1)
    old, new = make(store, "dedup", 1, raw), make(store, "dedup", 2, raw)
    record(store, "one", 2, old)
    record(store, "two", 1, new)
    assert [item.path for item in runs.garbage(store, 2, [])] == []
    assert [item.path for item in runs.garbage(store, 1, [])] == [old.path]
    assert [item.path for item in runs.garbage(store, 1, ["dedup@1"])] == []
    assert {item.path for item in runs.garbage(store, 0, [])} == {raw.path, old.path, new.path}


def test_runs_of_each_recipe_are_counted_apart(store: Store) -> None:
    first, second = make(store, "dedup", 1), make(store, "dedup", 2)
    record(store, "one", 2, first, recipe="tiny")
    record(store, "two", 1, second, recipe="small")
    assert runs.garbage(store, 1, []) == []


def test_superseded_and_interrupted_are_garbage_unless_somebody_is_at_it(store: Store) -> None:
    old = make(store, "dedup", 1)
    new = make(store, "dedup", 1, fresh=True)
    record(store, "one", 1, new)
    slot = store.slot("dedup", Order("dedup", "code", {"value": 2}, {}).key)
    found = {item.path: item.reason for item in runs.garbage(store, 5, [])}
    assert found == {old.path: "superseded by a newer version", partial_of(slot): "interrupted, and nobody is at it"}

    with locks.exclusive(store.root / ".state" / "locks" / f"dedup.{slot.name}"):
        assert partial_of(slot) not in {item.path for item in runs.garbage(store, 5, [])}
        assert not store.delete(partial_of(slot))
    assert all(store.delete(path) for path in found)
    assert [artifact.name for artifact in store.all()] == ["dedup@2"]
    assert not partial_of(slot).exists()


def test_a_damaged_record_is_one_sentence(store: Store) -> None:
    folder = store.root / "runs"
    folder.mkdir(parents=True)
    (folder / "bad.json").write_text("{}")
    with pytest.raises(UserError, match=r"bad\.json is no record of a run"):
        runs.recorded(store)
