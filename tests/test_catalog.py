"""SQL over the store, and what `homegrown sql` prints."""

import io
from pathlib import Path

import pyarrow as pa
import pytest

from homegrown import catalog
from homegrown.artifacts import Order, Store
from homegrown.errors import UserError
from homegrown.files import write_parquet
from homegrown.outcome import Outcome


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
        assert "42" in catalog.show(connection, "SELECT 42 AS answer", 10)
        with pytest.raises(UserError, match="nowhere"):
            catalog.show(connection, "SELECT * FROM nowhere", 10)
        with pytest.raises(UserError, match="Conversion"):
            catalog.show(connection, "SELECT cast('x' AS INT)", 10)
