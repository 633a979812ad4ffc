"""A store with an evaluation of two documents, whose variants wrote partly the same."""

from pathlib import Path

import pyarrow as pa
import pytest

from homegrown.artifacts import Order, Store
from homegrown.files import write_parquet
from homegrown.outcome import Outcome

_ROWS = [
    ("original", 0, "The cat", " sat.", " <b>slept</b>."),
    ("int8", 0, "The cat", " sat.", " <b>slept</b>."),
    ("original", 1, "A dog", " ran.", " flew."),
    ("int8", 1, "A dog", " ran.", " ran."),
    ("original", 2, "Not shown", " a", " b"),
]


@pytest.fixture
def rated_store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "artifacts")

    def build(out: Path) -> Outcome:
        names = ("variant", "document", "prompt", "reference", "continuation")
        rows = [dict(zip(names, row, strict=True)) for row in _ROWS]
        write_parquet(out / "continuations" / "part-00000.parquet", pa.Table.from_pylist(rows))
        return Outcome(len(rows), len(rows))

    order = Order("evaluate", "code", {}, {})
    store.make(order, store.slot("evaluate", order.key), build)
    return store
