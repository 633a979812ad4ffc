"""The artifact store: keys, versions, publication, damage, two makers at once, a killed maker, lineage."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from homegrown.store import artifacts, digests
from homegrown.store.artifacts import Store, partial_of
from homegrown.store.digests import sha256
from homegrown.store.lookup import find_model
from homegrown.store.manifest import Artifact, Order, problem_of
from homegrown.util.errors import UserError
from homegrown.util.files import replacing, write_parquet, writing
from homegrown.util.progress import Outcome


def order(stage: str = "toy", inputs: dict[str, str] | None = None, **settings: object) -> Order:
    return Order(stage, "code", settings, inputs or {})


def writes(text: str):
    def build(out: Path) -> Outcome:
        (out / "sub").mkdir(exist_ok=True)
        (out / "sub" / "text.txt").write_text(text)
        return Outcome(1, 2, "lines", {"length": len(text)})

    return build


def make(store: Store, wanted: Order, text: str = "text", fresh: bool = False) -> tuple[Artifact, bool]:
    return store.make(wanted, store.slot(wanted.stage, wanted.key, fresh=fresh), writes(text))


def test_key_depends_on_stage_code_settings_and_inputs_only() -> None:
    base = Order("dedup", "c", {"a": 1, "b": [1]}, {"ingest": "k"})
    assert base.key == Order("dedup", "c", {"b": [1], "a": 1}, {"ingest": "k"}).key
    others = [
        Order("filter", "c", {"a": 1, "b": [1]}, {"ingest": "k"}),
        Order("dedup", "d", {"a": 1, "b": [1]}, {"ingest": "k"}),
        Order("dedup", "c", {"a": 2, "b": [1]}, {"ingest": "k"}),
        Order("dedup", "c", {"a": 1, "b": [1]}, {"ingest": "l"}),
    ]
    assert len({base.key, *(other.key for other in others)}) == 5
    ignored = [Order("pretrain", "c", {"t": {"steps": 9, "keep": n}, "seed": 1}, {}, {"t": {"keep"}}) for n in (1, 2)]
    changed = Order("pretrain", "c", {"t": {"steps": 8, "keep": 1}, "seed": 1}, {}, {"t": {"keep"}})
    assert ignored[0].key == ignored[1].key != changed.key


def test_manifest_states_what_was_made(store: Store) -> None:
    artifact, made = make(store, order(threshold=0.7), "hello")
    assert made
    manifest = json.loads((artifact.path / "manifest.json").read_text())
    assert manifest["settings"] == {"threshold": 0.7}
    assert manifest["files"] == {
        "sub/text.txt": {"bytes": 5, "sha256": hashlib.sha256(b"hello").hexdigest()},
    }
    assert (manifest["rows_in"], manifest["rows_out"], manifest["unit"]) == (1, 2, "lines")
    assert artifact.path.name == f"1-{artifact.manifest.key[:16]}"
    assert not partial_of(artifact.path).exists()


def test_made_once_then_found(store: Store) -> None:
    first, _ = make(store, order())
    second, made = make(store, order(), "never written")
    assert not made
    assert second.path == first.path


def test_versions_count_up_per_stage_and_are_never_reused(store: Store) -> None:
    names = [make(store, order(value=value))[0].name for value in range(3)]
    assert names == ["toy@1", "toy@2", "toy@3"]
    store.delete(store.resolve("toy@3").path)
    assert make(store, order(value=3))[0].name == "toy@4"
    assert make(store, order("other"))[0].name == "other@1"


def test_forced_makes_a_new_version_of_the_same_key_and_finds_the_newest(store: Store) -> None:
    old, _ = make(store, order(), "old")
    new, made = make(store, order(), "new", fresh=True)
    assert made
    assert (old.manifest.key, old.path) != (new.manifest.key, new.path)
    found = store.find("toy", order().key)
    assert found is not None
    assert found.path == new.path
    assert (old.path / "sub/text.txt").read_text() == "old"


@pytest.mark.parametrize("harm", ["grown", "changed", "missing", "manifest"])
def test_damaged_is_reported_and_made_again(store: Store, harm: str, caplog: pytest.LogCaptureFixture) -> None:
    artifact, _ = make(store, order(), "right")
    victim = artifact.path / ("manifest.json" if harm == "manifest" else "sub/text.txt")
    if harm == "missing":
        victim.unlink()
    else:
        victim.write_text({"grown": "right and more", "changed": "wrong", "manifest": "{"}[harm])
    assert store.find("toy", order().key) is None
    assert "damaged and not used" in caplog.text
    again, made = make(store, order(), "right")
    assert made
    assert (again.path / "sub/text.txt").read_text() == "right"


def test_change_that_keeps_size_and_time_is_seen_while_the_file_is_young(store: Store) -> None:
    artifact, _ = make(store, order(), "right")
    file = artifact.path / "sub/text.txt"
    before = file.stat()
    file.write_text("wrong")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.damage(artifact) is not None


def test_failure_publishes_nothing_and_keeps_the_partial_folder(store: Store) -> None:
    def fails(out: Path) -> Outcome:
        (out / "shard-0").write_text("done")
        raise RuntimeError("half way")

    wanted = order()
    with pytest.raises(RuntimeError):
        store.make(wanted, store.slot("toy", wanted.key), fails)
    assert store.all() == []

    def goes_on(out: Path) -> Outcome:
        assert (out / "shard-0").read_text() == "done"
        return Outcome(1, 1)

    artifact, _ = store.make(wanted, store.slot("toy", wanted.key), goes_on)
    assert artifact.name == "toy@1"


def test_hidden_leftovers_of_a_killed_writer_are_not_published(store: Store) -> None:
    def build(out: Path) -> Outcome:
        (out / ".part.parquet.123.tmp").write_text("half")
        return writes("x")(out)

    wanted = order()
    artifact, _ = store.make(wanted, store.slot("toy", wanted.key), build)
    assert sorted(file.name for file in artifact.path.rglob("*")) == ["manifest.json", "sub", "text.txt"]


def test_a_process_killed_just_before_it_publishes_damages_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = order()

    def killed(place: Path, slot: Path) -> None:
        raise KeyboardInterrupt  # no handler runs, as after kill -9

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "rename", killed)
        store.make(wanted, store.slot("toy", wanted.key), writes("x"))
    (left,) = store.partials()
    assert (left / "manifest.json").exists()
    artifact, made = store.make(wanted, store.slot("toy", wanted.key), writes("longer than before"))
    assert (made, artifact.name, store.damage(artifact)) == (True, "toy@1", None)
    assert "manifest.json" not in artifact.manifest.files


_MAKER = """
import sys, time
from pathlib import Path
from homegrown.store.artifacts import Store
from homegrown.store.manifest import Order
from homegrown.util.progress import Outcome

store, seconds, name = Store(Path(sys.argv[1])), float(sys.argv[2]), sys.argv[3]
wanted = Order("toy", "code", {}, {})

def build(out):
    print("building", flush=True)
    with (out / "steps").open("a") as steps:
        steps.write(name + "\\n")
    time.sleep(seconds)
    return Outcome(1, 1)

artifact, made = store.make(wanted, store.slot("toy", wanted.key), build)
print("made" if made else "used", artifact.path.name, flush=True)
"""


def maker(store: Store, seconds: float, name: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", _MAKER, str(store.root), str(seconds), name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_want_the_same_and_one_makes_it(store: Store) -> None:
    first, second = maker(store, 1, "a"), maker(store, 1, "b")
    outputs = [process.communicate(timeout=60)[0].split() for process in (first, second)]
    assert sorted(output[-2] for output in outputs) == ["made", "used"]
    assert outputs[0][-1] == outputs[1][-1]
    assert len((store.all()[0].path / "steps").read_text().split()) == 1


def test_when_the_maker_is_killed_the_waiting_process_takes_over(store: Store) -> None:
    first = maker(store, 60, "first")
    assert first.stdout is not None
    assert first.stdout.readline() == "building\n"
    second = maker(store, 0, "second")
    time.sleep(1)
    assert second.poll() is None
    first.send_signal(signal.SIGKILL)
    assert "made" in second.communicate(timeout=60)[0]
    first.communicate()
    assert (store.all()[0].path / "steps").read_text().split() == ["first", "second"]


def test_lineage_both_ways(store: Store) -> None:
    raw, _ = make(store, order("ingest"))
    middle, _ = make(store, order("dedup", {"ingest": raw.manifest.key}))
    end, _ = make(store, order("filter", {"dedup": middle.manifest.key}))
    assert [one.name for one in store.lineage(end)] == ["dedup@1", "ingest@1"]
    assert [one.name for one in store.outputs(raw)] == ["dedup@1"]


def test_resolve_names_what_there_is(store: Store) -> None:
    make(store, order(value=1))
    make(store, order(value=2))
    assert store.resolve("toy").name == "toy@2"
    assert store.resolve("toy@1").name == "toy@1"
    with pytest.raises(UserError, match=r"no artifact in .*`homegrown run tiny`"):
        Store(store.root / "another").resolve("toy")
    with pytest.raises(UserError, match="'toy@' has no version after @"):
        store.resolve("toy@")
    with pytest.raises(UserError, match="no version 7 of toy; there are: 1, 2"):
        store.resolve("toy@7")
    with pytest.raises(UserError, match="there are: toy"):
        store.resolve("dedup")


def test_looking_for_one_artifact_reads_no_other(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A store of a thousand versions must not slow every stage down."""
    found = [make(store, order(number=number))[0] for number in range(3)]
    for other in (found[0], found[2]):
        (other.path / "manifest.json").write_text("no manifest")  # reading it would be logged
    assert store.resolve("toy@2").path == found[1].path
    assert store.find("toy", order(number=1).key) == found[1]
    assert caplog.text == ""


def test_store_in_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Store(tmp_path / "file").slot("toy", order().key)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
    ],
)
def test_a_full_disk_is_one_sentence_and_keeps_finished_work(store: Store, error: Exception) -> None:
    def build(out: Path) -> Outcome:
        (out / "shard-0").write_text("done")
        raise error

    wanted = order()
    with pytest.raises(UserError, match=r"is full .* free some space"):
        store.make(wanted, store.slot("toy", wanted.key), build)
    assert (partial_of(store.slot("toy", wanted.key)) / "shard-0").read_text() == "done"


def test_an_adapter_beside_its_complete_model_needs_no_merge(store: Store) -> None:
    def build(*folders: str):
        def write(out: Path) -> Outcome:
            for folder in folders:
                (out / folder).mkdir(exist_ok=True)
                (out / folder / "config.json").write_text("{}")
            return Outcome(1, 1, "tokens", {})

        return write

    made = {}
    for stage, folders in (("pretrain", ("adapter", "model")), ("finetune", ("adapter",))):
        wanted = order(stage)
        made[stage], _ = store.make(wanted, store.slot(stage, wanted.key), build(*folders))
    assert find_model(store, "pretrain") == made["pretrain"]
    with pytest.raises(UserError, match="adapter without its merged model"):
        find_model(store, "finetune")


def test_publishing_reads_no_file_whose_writer_noted_the_digest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"id": [str(number) for number in range(50_000)]})

    def build(out: Path) -> Outcome:
        write_parquet(out / "documents" / "part-00000.parquet", table)
        with replacing(out / "facts.json") as temporary:
            temporary.write_text("{}")
        with writing(out / "tokens.bin") as stream:
            np.save(stream, np.arange(10_000))
        for name in ("changed", "moved"):
            with replacing(out / name) as temporary:
                temporary.write_text("before")
        (out / "changed").write_text("after, by other means")
        (out / "other.txt").write_text("without a note")
        (out / "moved").replace(out / "elsewhere")
        return Outcome(1, 1)

    read: list[str] = []

    def reading(path: Path) -> str:
        read.append(path.name)
        return sha256(path)

    monkeypatch.setattr(artifacts, "sha256", reading)
    wanted = order()
    artifact, _ = store.make(wanted, store.slot("toy", wanted.key), build)
    assert sorted(read) == ["changed", "elsewhere", "other.txt"]
    assert problem_of(artifact, sha256) is None
    assert pq.read_table(artifact.path / "documents").equals(table)
    assert not list(artifact.path.rglob(".*")), "notes are not published"


def test_after_publishing_a_check_reads_no_settled_file(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_SETTLED_NS", -1)
    artifact, _ = make(store, order())
    monkeypatch.setattr(digests, "sha256", lambda path: pytest.fail(f"{path} is read"))
    assert store.damage(artifact) is None
