"""SQL over the store, and what `homegrown sql` prints."""

import io
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

from homegrown.cli.main import cli
from homegrown.reporting.blocks import Table
from homegrown.store import catalog
from homegrown.store.artifacts import Store
from homegrown.store.manifest import Order
from homegrown.util.errors import UserError
from homegrown.util.files import write_parquet
from homegrown.util.progress import Outcome


def make(store: Store, stage: str, values: list[int]) -> None:
    def build(out: Path) -> Outcome:
        for part, value in enumerate(values):
            write_parquet(out / "documents" / f"part-{part:05d}.parquet", pa.table({"value": [value]}))
        write_parquet(out / "metrics.parquet", pa.table({"loss": [0.5]}))
        return Outcome(len(values), len(values))

    wanted = Order(stage, "code", {"values": values}, {})
    store.make(wanted, store.slot(stage, wanted.key), build)


def rows(store: Store, sql: str) -> list[str]:
    output = io.StringIO()
    with catalog.connect(store) as connection:
        catalog.write_csv(connection, sql, output)
    return output.getvalue().splitlines()[1:]


def test_views_of_latest_and_of_each_version(store: Store) -> None:
    make(store, "dedup", [1, 2])
    make(store, "dedup", [3])
    assert rows(store, "SELECT sum(value) FROM dedup.documents") == ["3"]
    assert rows(store, 'SELECT sum(value) FROM "dedup@1".documents') == ["3"]
    assert rows(store, 'SELECT count(*) FROM "dedup@1".documents') == ["2"]
    assert rows(store, "SELECT loss FROM dedup.metrics") == ["0.5"]


def test_unqualified_names_mean_the_last_stage_that_has_them(store: Store) -> None:
    make(store, "ingest", [1])
    make(store, "filter", [2])
    assert rows(store, "SELECT value FROM documents") == ["2"]


def test_the_store_describes_itself(store: Store) -> None:
    make(store, "dedup", [1, 2])
    assert rows(store, "SELECT stage, version, rows_out FROM artifacts") == ["dedup,1,2"]
    assert rows(store, "SELECT count(*) FROM files WHERE bytes > 0") == ["3"]
    assert rows(store, "SELECT * FROM runs") == []


def test_shows_a_table_and_wrong_sql_is_one_error(store: Store) -> None:
    with catalog.connect(store) as connection:
        for most in (10, None):
            shown = catalog.table_of(connection, "SELECT 42 AS answer, 'x' AS word, NULL AS nothing", most)
            assert shown == Table(["answer", "word", "nothing"], [["42", "x", "NULL"]], align="rll", notes=[])
        part = catalog.table_of(connection, "FROM range(5)", 2)
        assert (
            part
            and list(part.rows) == [["0"], ["1"]]
            and part.notes == ["Only the first 2 rows; a file or a pipe gets all."]
        )
        empty = catalog.table_of(connection, "SELECT 1 WHERE false", 2)
        assert empty and (empty.rows, empty.notes) == ([], ["No rows."])
        assert catalog.table_of(connection, "-- nothing", 2) is None
        with pytest.raises(UserError, match="nowhere"):
            catalog.table_of(connection, "SELECT * FROM nowhere", 10)
        with pytest.raises(UserError, match="Conversion"):
            catalog.table_of(connection, "SELECT cast('x' AS INT)", 10)


def test_no_statement_is_a_mistake(store: Store) -> None:
    told = CliRunner().invoke(cli, ["--artifacts", str(store.root), "sql", " "])
    assert told.exit_code == 1
    assert "The statement is empty" in told.output


def corpus(store: Store, stage: str, tables: dict[str, pa.Table], inputs: dict[str, str]) -> str:
    def build(out: Path) -> Outcome:
        for name, table in tables.items():
            write_parquet(out / name / "part-00000.parquet", table)
        return Outcome(1, 1)

    wanted = Order(stage, "code", {}, inputs)
    store.make(wanted, store.slot(stage, wanted.key), build)
    return wanted.key


def test_what_every_stage_dropped_and_all_shards_are_one_view_each(store: Store) -> None:
    dedup = corpus(store, "dedup", {"dropped": pa.table({"id": ["a"], "kind": ["near"]})}, {})
    dropped = pa.table({"id": ["b"], "rule": ["max"], "value": [0.5]})
    filtered = corpus(store, "filter", {"dropped": dropped}, {"dedup": dedup})
    splits = {split: pa.table({"id": [split[0]]}) for split in ("train", "validation", "test")}
    corpus(store, "shard", splits, {"filter": filtered})
    assert rows(store, "SELECT stage, reason, id, value FROM dropped ORDER BY id") == [
        "dedup,near,a,",
        "filter,max,b,0.5",
    ]
    assert rows(store, "SELECT id, split FROM shards ORDER BY id, length(split) DESC") == [
        "t,train",
        "t,test",
        "v,validation",
    ]


def test_similarity_of_signatures_in_sql(store: Store) -> None:
    signatures = pa.array([bytes(16), bytes(4) + b"abcd" + bytes(8)], pa.binary(16))
    corpus(store, "dedup", {"signatures": pa.table({"id": ["a", "b"], "signature": signatures})}, {})
    sql = "SELECT similarity(a.signature, b.signature) FROM dedup.signatures a, dedup.signatures b WHERE a.id < b.id"
    assert rows(store, sql) == ["0.75"]
