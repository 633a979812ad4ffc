"""Garbage collection, beside runs that go on in other processes."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from homegrown.cli.main import cli
from homegrown.store import runs
from homegrown.store.artifacts import Store, partial_of
from homegrown.store.garbage import collect, garbage, size_on_disk
from homegrown.store.manifest import Artifact, Order
from homegrown.util import locks
from homegrown.util.progress import Outcome


def make(store: Store, stage: str, value: int, *inputs: Artifact, fresh: bool = False) -> Artifact:
    keys = {one.manifest.stage: one.manifest.key for one in inputs}
    wanted = Order(stage, "code", {"value": value}, keys)

    def build(out: Path) -> Outcome:
        (out / "text").write_text(f"{stage} {value}")
        return Outcome(1, 1)

    return store.make(wanted, store.slot(stage, wanted.key, fresh=fresh), build)[0]


def record(
    store: Store, name: str, age: int, *reached: Artifact, recipe: str = "tiny", making: str = "", sweep: str = ""
) -> None:
    started = datetime.now(UTC) - timedelta(hours=age)
    keys = {one.manifest.stage: one.manifest.key for one in reached}
    run = runs.RunRecord(
        recipe={"name": recipe}, started=started, keys=keys, making=making or None, sweep=sweep or None
    )
    runs.record(store, name, run)


def paths(store: Store, keep_runs: int, *keep: str) -> set[Path]:
    return {item.path for item in garbage(store, keep_runs, list(keep))}


def test_garbage_is_what_no_recent_run_stands_on(store: Store) -> None:
    raw = make(store, "ingest", 1)
    old, new = make(store, "dedup", 1, raw), make(store, "dedup", 2, raw)
    record(store, "one", 2, old)
    record(store, "two", 1, new)
    assert paths(store, 2) == set()
    assert paths(store, 1) == {old.path}
    assert paths(store, 1, "dedup@1") == set()
    assert paths(store, 0) == {raw.path, old.path, new.path}


def test_runs_of_the_last_days_stay_with_the_last_and_the_best_of_a_recipe(store: Store) -> None:
    made = [make(store, "dedup", value) for value in range(4)]
    for value, days in enumerate((40, 20, 2)):
        record(store, f"run-{value}", 24 * days, made[value])
    record(store, "other", 24 * 50, made[3], recipe="small")
    assert {item.path for item in garbage(store, 0, [], keep_days=30)} == {made[0].path}
    assert {item.path for item in garbage(store, 0, [], keep_days=1)} == {made[0].path, made[1].path}
    assert garbage(store, 3, [], keep_days=1) == []
    assert {item.path for item in garbage(store, 0, ["dedup@1"], keep_days=1)} == {made[1].path}


def test_a_budget_takes_the_oldest_runs_and_never_the_last(store: Store) -> None:
    made = [make(store, "dedup", value) for value in range(4)]
    for value, artifact in enumerate(made):
        record(store, f"run-{value}", 10 - value, artifact)
    total, each = size_on_disk(store.root), size_on_disk(made[0].path)
    assert garbage(store, 5, [], max_bytes=total) == []
    found = garbage(store, 5, [], max_bytes=total - each - 1)
    assert [(item.path, item.reason) for item in found] == [
        (one.path, "over the size budget") for one in sorted(made[:2], key=lambda one: one.path)
    ]
    assert {item.path for item in garbage(store, 5, ["dedup@1"], max_bytes=1)} == {made[1].path, made[2].path}
    shown = CliRunner().invoke(cli, ["--artifacts", str(store.root), "gc", "--max-gb", "1e-7", "--yes"]).output
    assert "more than --max-gb 1e-07: the rest is in use, named, or the last or best of its recipe." in shown
    assert store.all() == [made[3]]


def test_runs_of_each_recipe_are_counted_apart(store: Store) -> None:
    first, second = make(store, "dedup", 1), make(store, "dedup", 2)
    record(store, "one", 2, first, recipe="tiny")
    record(store, "two", 1, second, recipe="small")
    assert paths(store, 1) == set()


def test_a_sweep_counts_as_one_run(store: Store) -> None:
    made = [make(store, "dedup", value) for value in range(5)]
    record(store, "before", 9, made[0])
    for value in (1, 2, 3):
        record(store, f"sweep-{value}", 9 - value, made[value], sweep="sweep")
    record(store, "after", 1, made[4])
    assert paths(store, 2) == {made[0].path}
    assert paths(store, 3) == set()


def test_failures_and_partial_runs_never_push_out_the_last_model(store: Store) -> None:
    raw, other = make(store, "ingest", 1), make(store, "ingest", 2)
    model = make(store, "pretrain", 1, raw)
    record(store, "good", 9, raw, model)
    for age in range(8, 0, -1):
        record(store, f"failed-{age}", age, other)
    assert paths(store, 5) == set()


def test_a_replaced_version_is_garbage_unless_the_newer_one_is_damaged_or_it_is_named(store: Store) -> None:
    old, new = make(store, "dedup", 1), make(store, "dedup", 1, fresh=True)
    record(store, "one", 1, new)
    assert {item.path: item.reason for item in garbage(store, 5, [])} == {old.path: "replaced by a newer version"}
    assert paths(store, 5, "dedup@1") == set()
    (new.path / "text").write_text("harmed")
    assert paths(store, 5) == {new.path}


def test_interrupted_is_garbage_unless_somebody_is_at_it_or_a_recent_run_began_it(store: Store) -> None:
    key = Order("dedup", "code", {"value": 2}, {}).key
    slot = store.slot("dedup", key)
    assert paths(store, 5) == {partial_of(slot)}
    with locks.exclusive(store.root / ".state" / "locks" / f"dedup.{slot.name}"):
        assert paths(store, 5) == set()
        assert not store.delete(partial_of(slot))
    record(store, "killed", 1, making=key)
    assert paths(store, 5) == set()
    deleted, left = collect(store, 0, [])
    assert ([item.path for item in deleted], left) == ([partial_of(slot)], [])
    assert not partial_of(slot).exists()


_DELETER = """
import shutil, sys, time
from pathlib import Path
from homegrown.store.artifacts import Store

def hangs(*arguments, **named):
    print("deleting", flush=True)
    time.sleep(60)

shutil.rmtree = hangs
Store(Path(sys.argv[1])).delete(Path(sys.argv[2]))
"""


def test_what_a_killed_deletion_left_is_freed(store: Store) -> None:
    victim = make(store, "dedup", 1).path
    deleter = subprocess.Popen([sys.executable, "-c", _DELETER, store.root, victim], stdout=subprocess.PIPE, text=True)
    assert deleter.stdout is not None
    assert deleter.stdout.readline() == "deleting\n"
    deleter.send_signal(signal.SIGKILL)
    deleter.communicate()
    assert not victim.exists()
    assert [(item.path.parent.name, item.reason) for item in garbage(store, 5, [])] == [
        ("trash", "interrupted deletion")
    ]
    collect(store, 5, [])
    assert store.trash() == []


# A run as the flow does it, without Prefect: many stages one after the other, each of which reads the one before at
# its end, some forced, so that older versions with the same key lie beside those in use.
_RUN = """
import sys, time
from pathlib import Path
from homegrown.store import runs
from homegrown.store.artifacts import Store
from homegrown.store.manifest import Order
from homegrown.util.progress import Outcome

store = Store(Path(sys.argv[1]))
with runs.ongoing(store, "busy", {"name": "tiny"}) as log:
    before = None
    for number in range(int(sys.argv[2])):
        order = Order(f"stage{number}", "code", {}, {before.manifest.stage: before.manifest.key} if before else {})
        log.reach(order.key)
        slot = store.slot(order.stage, order.key, fresh=number % 2 == 0)

        def build(out):
            time.sleep(0.02)
            (out / "text").write_text((before.path / "text").read_text() + "x" if before else "")
            return Outcome(1, 1)

        before, _ = store.make(order, slot, build)
        log.made(order.stage, order.key, before.path.name)
        if number == 0:
            print("going", flush=True)
    print((before.path / "text").read_text(), flush=True)
"""


def busy(store: Store, stages: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", _RUN, str(store.root), str(stages)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_nothing_that_a_running_process_needs_is_deleted(store: Store) -> None:
    stages = 16
    busy(store, stages).communicate(timeout=60)  # what the next one finds cached, of an older run that nothing keeps
    process = busy(store, stages)
    assert process.stdout is not None
    assert process.stdout.readline() == "going\n"
    while process.poll() is None:
        collect(store, 0, [])
        time.sleep(0.05)
    output, errors = process.communicate()
    assert (output.strip(), errors) == ("x" * (stages - 1), "")
    collect(store, 0, [])
    assert store.all() == []


def test_the_size_of_a_folder_is_without_what_is_renamed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = tmp_path / "store" / "first", tmp_path / "store" / "second"
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "text").write_text("12345")
    scan, renamed = os.scandir, tmp_path / "renamed"

    def and_rename(path: Path) -> object:
        if Path(path) in folders and not renamed.exists():
            next(one for one in folders if one != Path(path)).rename(renamed)
        return scan(path)

    monkeypatch.setattr(os, "scandir", and_rename)
    assert size_on_disk(tmp_path / "store") == 5


def test_a_version_replaced_while_a_run_reads_it_stays_until_the_run_ends(store: Store) -> None:
    with runs.ongoing(store, "busy", {"name": "tiny"}) as log:
        used = make(store, "dedup", 1)
        log.made("dedup", used.manifest.key, used.path.name)
        newer = make(store, "dedup", 1, fresh=True)
        assert paths(store, 0) == set()
        shown = CliRunner().invoke(cli, ["--artifacts", str(store.root), "gc", "--keep-runs", "0"])
        assert "Kept for active runs: busy." in shown.output
    assert paths(store, 5) == {used.path}
    freed = CliRunner().invoke(cli, ["--artifacts", str(store.root), "gc", "--yes"])
    assert freed.output.splitlines()[-1].startswith("Deleted 1 folder,")
    assert CliRunner().invoke(cli, ["--artifacts", str(store.root), "gc"]).output == "Nothing to delete.\n"
    assert store.all() == [newer]


def test_the_last_model_goes_with_keep_runs_0_alone(store: Store) -> None:
    model = make(store, "pretrain", 1)
    record(store, "good", 9, model)
    assert paths(store, 1) == set()
    assert paths(store, 0) == {model.path}


def test_runs_that_made_nothing_take_no_place_and_the_best_model_stays(store: Store) -> None:
    def model(value: int, bits: float, age: int) -> Artifact:
        wanted = Order("pretrain", "code", {"value": value}, {})

        def build(out: Path) -> Outcome:
            (out / "text").write_text(str(value))
            return Outcome(1, 1, metrics={"validation_bits_per_byte": bits})

        made = store.make(wanted, store.slot("pretrain", wanted.key), build)[0]
        record(store, f"run-{value}", age, made)
        return made

    best, middle, last = model(1, 1.40, 9), model(2, 2.0, 8), model(3, 1.9, 7)
    for number in range(6):
        record_cached(store, f"cached-{number}", last)
    assert paths(store, 1) == {middle.path}
    assert paths(store, 2) == set()
    (shown,) = garbage(store, 1, [])
    assert (shown.path, shown.bits_per_byte) == (middle.path, 2.0)
    output = CliRunner().invoke(cli, ["--artifacts", str(store.root), "gc", "--keep-runs", "1", "--yes"]).output
    assert "2.0000" in output and output.index("2.0000") < output.index("Deleted 1 folder")
    assert store.all() == [best, last]


def record_cached(store: Store, name: str, *found: Artifact) -> None:
    """Record a run that started after its artifacts were made."""
    keys = {one.manifest.stage: one.manifest.key for one in found}
    run = runs.RunRecord(recipe={"name": "tiny"}, started=datetime.now(UTC), keys=keys)
    runs.record(store, name, run)


_LOADED = """
import sys
from pathlib import Path
from homegrown.store.artifacts import Store
from homegrown.store.garbage import loaded

store = Store(Path(sys.argv[1]))
with loaded(store, [store.resolve(sys.argv[2])]):
    print("loaded", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("killed", [True, False])
def test_a_model_that_a_process_has_loaded_stays_with_its_inputs(store: Store, killed: bool) -> None:
    raw = make(store, "ingest", 1)
    used, other = make(store, "pretrain", 1, raw), make(store, "pretrain", 2, raw)
    process = subprocess.Popen(
        [sys.executable, "-c", _LOADED, str(store.root), "pretrain@1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "loaded\n"
    assert paths(store, 0) == {other.path}
    if killed:
        process.kill()
    process.communicate()
    assert paths(store, 0) == {raw.path, used.path, other.path}


@pytest.mark.parametrize("killed", [True, False])
def test_a_killed_run_is_stopped_and_one_that_lives_is_running(store: Store, killed: bool) -> None:
    process = busy(store, 1000)
    assert process.stdout is not None
    assert process.stdout.readline() == "going\n"
    if killed:
        process.send_signal(signal.SIGKILL)
        process.wait()
    run = runs.recorded(store)["busy"]
    assert runs.state(store, "busy", run) == ("stopped" if killed else "running")
    process.kill()
    process.communicate()
