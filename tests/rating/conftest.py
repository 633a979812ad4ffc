"""A store with an evaluation whose variants wrote partly the same, and with the answers of a fine-tuning."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from homegrown.store.artifacts import Store
from homegrown.store.manifest import Order
from homegrown.util.files import write_parquet
from homegrown.util.progress import Outcome

_ROWS = [
    ("original", 0, "The cat", " sat.", " <b>slept</b>."),
    ("int8", 0, "The cat", " sat.", " <b>slept</b>."),
    ("original", 1, "A dog", " ran.", " flew."),
    ("int8", 1, "A dog", " ran.", " ran."),
    ("original", 2, "Not shown", " a", " b"),
]


_ANSWERS = [
    ("Why?", "So.", "Why? Why?", "So."),
    ("When?", "Now.", "", "Then."),
    ("Not shown", "a", "b", "c"),
]


@pytest.fixture
def rated_store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "artifacts")

    def build(out: Path) -> Outcome:
        names = ("variant", "document", "prompt", "reference", "continuation")
        rows = [dict(zip(names, row, strict=True)) for row in _ROWS]
        write_parquet(out / "continuations" / "part-00000.parquet", pa.Table.from_pylist(rows))
        return Outcome(len(rows), len(rows))

    def train(out: Path) -> Outcome:
        (out / "weights").touch()
        return Outcome(1, 1)

    def answer(out: Path) -> Outcome:
        names = ("question", "author", "before", "after")
        rows = [dict(zip(names, row, strict=True)) for row in _ANSWERS]
        write_parquet(out / "samples" / "part-00000.parquet", pa.Table.from_pylist(rows))
        return Outcome(len(rows), len(rows))

    def make(stage: str, work: Callable[[Path], Outcome], **inputs: str) -> str:
        order = Order(stage, "code", {}, inputs)
        store.make(order, store.slot(stage, order.key), work)
        return order.key

    tuned = make("finetune", train)
    make("answers", answer, finetune=tuned, base=make("pretrain", train))
    make("evaluate", build)
    return store
