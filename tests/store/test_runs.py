"""Run records: written as a run goes on, one for each run, current artifacts by recipe."""

from pathlib import Path

import pytest

from homegrown.store import runs
from homegrown.store.artifacts import Store
from homegrown.store.manifest import Order
from homegrown.util.errors import UserError
from homegrown.util.progress import Outcome


def test_a_run_is_recorded_as_it_goes_on(store: Store) -> None:
    def seen() -> tuple[str, dict[str, str], str | None]:
        run = runs.recorded(store)["one"]
        return runs.state(store, "one", run), run.keys, run.making

    with runs.ongoing(store, "one", {"name": "tiny"}) as log:
        assert seen() == ("running", {}, None)
        log.reach("k1")
        assert seen() == ("running", {}, "k1")
        log.made("ingest", "k1", "1-k1")
        assert seen() == ("running", {"ingest": "k1"}, None)
    assert seen() == ("finished", {"ingest": "k1"}, None)


def test_a_failed_run_is_stopped_and_says_what_it_failed_at(store: Store) -> None:
    with pytest.raises(RuntimeError), runs.ongoing(store, "one", {"name": "tiny"}) as log:
        log.reach("k1")
        raise RuntimeError
    run = runs.recorded(store)["one"]
    assert (runs.state(store, "one", run), run.making, run.needed) == ("stopped", "k1", {"k1"})


def test_runs_that_begin_at_the_same_moment_keep_a_record_each(store: Store) -> None:
    with runs.ongoing(store, "one", {"name": "tiny"}) as first, runs.ongoing(store, "one", {"name": "tiny"}) as second:
        names = [first.name, second.name]
    with runs.ongoing(store, "one", {"name": "tiny"}) as third:
        names.append(third.name)
    assert names == ["one", "one-2", "one-3"]
    assert list(runs.recorded(store)) == names


def test_what_is_current_is_the_last_of_each_recipe_and_stage(store: Store) -> None:
    for name, recipe, stages in (("a", "tiny", "xy"), ("b", "small", "x"), ("c", "tiny", "x")):
        with runs.ongoing(store, name, {"name": recipe}) as log:
            for stage in stages:
                log.made(stage, f"key-{name}", f"1-{name}")
    assert runs.latest_by_recipe(runs.recorded(store)) == {"tiny": {"x": "c", "y": "a"}, "small": {"x": "b"}}


def test_the_version_that_a_run_took_is_known_although_a_newer_one_has_its_key(store: Store) -> None:
    wanted = Order("dedup", "code", {}, {})
    made = [
        store.make(wanted, store.slot("dedup", wanted.key, fresh=True), lambda out: Outcome(1, 1))[0] for _ in range(2)
    ]
    with runs.ongoing(store, "one", {"name": "tiny"}) as log:
        log.made("dedup", wanted.key, made[0].path.name)
    run = runs.recorded(store)["one"]
    assert runs.artifact_of(run, "dedup", store.all()) == made[0]
    store.delete(made[0].path)
    assert runs.artifact_of(run, "dedup", store.all()) == made[1]
    assert runs.artifact_of(run, "pack", store.all()) is None


def test_a_damaged_record_is_one_sentence(store: Store) -> None:
    folder: Path = store.root / "runs"
    folder.mkdir(parents=True)
    (folder / "bad.json").write_text("{}")
    with pytest.raises(UserError, match=r"bad\.json is not a valid record of a run"):
        runs.recorded(store)
