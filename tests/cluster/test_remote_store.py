"""Artifacts on a real S3 server: copied when published, brought by key, whole or not at all."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner

from homegrown.cli.main import cli
from homegrown.store.artifacts import Store, partial_of
from homegrown.store.manifest import Artifact, Order
from homegrown.store.remote import Remote
from homegrown.util.errors import UserError
from homegrown.util.files import write_parquet
from homegrown.util.progress import Outcome

pytestmark = pytest.mark.slow

ORDER = Order("toy", "code", {"a": 1}, {})


def make(store: Store, order: Order = ORDER, text: str = "text", fresh: bool = False) -> tuple[Artifact, bool]:
    def build(out: Path) -> Outcome:
        (out / "sub").mkdir(exist_ok=True)
        (out / "sub" / "text.txt").write_text(text)
        (out / "other.txt").write_text("other")
        return Outcome(1, 2)

    return store.make(order, store.slot("toy", order.key, fresh=fresh), build)


@pytest.fixture
def machines(tmp_path: Path, bucket: str) -> list[Store]:
    """The stores of three machines with one remote."""
    return [Store(tmp_path / name, Remote(f"{bucket}/some/prefix")) for name in ("a", "b", "c")]


def remote(bucket: str) -> Any:
    import s3fs

    return s3fs.S3FileSystem(use_listings_cache=False)


def test_what_one_machine_published_another_brings_by_key(machines: list[Store]) -> None:
    here, there, _ = machines
    first, made = make(here)
    assert made
    (partial_of(there.slot("toy", ORDER.key)) / "half").write_text("what an interrupted run left")
    second, made = make(there, text="not this")
    assert not made
    assert second.manifest == first.manifest
    assert second.path.relative_to(there.root) == first.path.relative_to(here.root)
    assert sorted(path.name for path in second.path.rglob("*")) == ["manifest.json", "other.txt", "sub", "text.txt"]
    assert there.find("toy", ORDER.key) == second
    assert there.interrupted() == []


def test_versions_count_on_from_those_at_the_remote(machines: list[Store]) -> None:
    here, there, third = machines
    make(here)
    other, made = make(there, Order("toy", "code", {"a": 2}, {}))
    assert made and other.manifest.version == 2
    again, made = make(there, text="again", fresh=True)
    assert made and again.manifest.version == 3
    brought, _ = make(third)
    assert brought.manifest == again.manifest, "the newest of a key"


def test_without_its_manifest_nothing_of_an_artifact_is_there(machines: list[Store], bucket: str) -> None:
    here, there, third = machines
    artifact, _ = make(here)
    remote(bucket).rm(f"{bucket}/some/prefix/toy/{artifact.path.name}/manifest.json")  # as after a kill while copying
    own, made = make(there, text="made there")
    assert made and own.manifest.version == 2
    assert make(here)[0].manifest == artifact.manifest
    assert remote(bucket).exists(f"{bucket}/some/prefix/toy/{artifact.path.name}/manifest.json"), "copied again"
    assert not make(third)[1]


def test_a_damaged_file_at_the_remote_is_not_used_and_mended(
    machines: list[Store], bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    here, there, third = machines
    artifact, _ = make(here)
    remote(bucket).pipe_file(f"{bucket}/some/prefix/toy/{artifact.path.name}/sub/text.txt", b"next")
    assert make(there)[1], "made, for what is there is damaged"
    assert "sub/text.txt at s3://" in caplog.text
    assert make(third)[0].path.joinpath("sub/text.txt").read_text() == "text"
    assert caplog.text.count("not used") == 1


def test_what_was_made_before_there_was_a_remote_is_copied_when_a_run_needs_it(machines: list[Store]) -> None:
    here, there, _ = machines
    make(Store(here.root))
    here.slot("toy", ORDER.key)
    assert not make(there)[1]


def test_files_outside_the_artifact_are_refused(machines: list[Store], bucket: str) -> None:
    here, there, _ = machines
    artifact, _ = make(here)
    name = f"{bucket}/some/prefix/toy/{artifact.path.name}/manifest.json"
    remote(bucket).pipe_file(name, remote(bucket).cat_file(name).replace(b'"sub/text.txt"', b'"../../evil.txt"'))
    assert make(there)[1]
    assert not list(there.root.parent.rglob("evil.txt"))


def test_a_remote_that_does_not_work_is_one_sentence(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"HOMEGROWN_REMOTE=s3://no-such-bucket/x: no-such-bucket does not exist"):
        make(Store(tmp_path / "a", Remote("s3://no-such-bucket/x")))
    with pytest.raises(UserError, match="HOMEGROWN_REMOTE=nonsense://x cannot be used"):
        make(Store(tmp_path / "b", Remote("nonsense://x")))
    monkeypatch.setitem(__import__("sys").modules, "fsspec.core", None)
    with pytest.raises(UserError, match=r"pip install 'homegrown\[s3\]'"):
        make(Store(tmp_path / "c", Remote(bucket)))


def test_a_mounted_folder_is_a_remote_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Remote.of_environment() is None
    monkeypatch.setenv("HOMEGROWN_REMOTE", str(tmp_path / "nas"))
    here, there = (Store(tmp_path / name, Remote.of_environment()) for name in ("a", "b"))
    (tmp_path / "nas").mkdir()
    make(here)
    assert not make(there)[1]


@pytest.mark.parametrize("place", ["bucket", "folder"])
def test_sql_reads_tables_whose_files_are_at_the_remote_alone(tmp_path: Path, bucket: str, place: str) -> None:
    at = Remote(f"{bucket}/prefix" if place == "bucket" else str(tmp_path / "remote"))
    there, here = Store(tmp_path / "there", at), Store(tmp_path / "here", at)
    order = Order("shard", "code", {}, {})

    def build(out: Path) -> Outcome:
        for number, split in enumerate(("train", "train", "validation")):
            write_parquet(out / split / f"part-{number:05d}.parquet", pa.table({"number": [number, 10]}))
        write_parquet(out / "dropped" / "part-00000.parquet", pa.table({"reason": ["near_test"]}))
        return Outcome(4, 4)

    there.make(order, there.slot("shard", order.key), build)
    here.make(order, here.slot("shard", order.key), build, files_stay=True)

    def answer(statement: str) -> str:
        result = CliRunner().invoke(cli, ["--artifacts", str(here.root), "sql", "--csv", statement])
        assert result.exit_code == 0, result.output
        return result.output.partition("\n")[2].replace("\r", "").strip()

    assert answer('SELECT sum(number) FROM "shard@1".train') == "21"
    assert answer("SELECT split, sum(number) FROM shards GROUP BY ALL ORDER BY ALL") == "train,21\nvalidation,12"
    assert answer("SELECT stage, reason FROM dropped") == "shard,near_test"
    assert "validation" in answer("SHOW ALL TABLES")
    assert not list(here.root.rglob("*.parquet"))
    if place == "folder":
        (tmp_path / "remote").rename(tmp_path / "moved")
        result = CliRunner().invoke(cli, ["--artifacts", str(here.root), "sql", "SELECT * FROM shard.train"])
        assert result.exit_code and "Table shard@1.train is at" in result.output and "Traceback" not in result.output
