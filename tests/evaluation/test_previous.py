"""An evaluation beside the previous one: found through the runs, compared document by document."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from homegrown.evaluation.previous import beside_previous, find_previous
from homegrown.evaluation.results import Facts, Report, Result
from homegrown.store import runs
from homegrown.store.artifacts import Store
from homegrown.store.manifest import Artifact, Order
from homegrown.util.files import write_parquet
from homegrown.util.progress import Outcome

DOCUMENTS = 40


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def evaluated(
    store: Store, hours: int, bits: float, recipe: str = "tiny", first: int = 0, kept: bool = True
) -> Artifact:
    """Record a run whose evaluation has about `bits` per byte on documents from number `first` on."""
    dice = random.Random(hours)
    rows = [
        {"variant": "original", "id": f"d{first + number}", "tokens": 30, "bytes": 100 + number}
        | {"nats": (100 + number) * 0.693147 * (bits + random.Random(number).gauss(0, 0.3) + dice.gauss(0, 0.01))}
        for number in range(DOCUMENTS)
    ]

    def build(out: Path) -> Outcome:
        facts = dict.fromkeys(Facts.__annotations__, 1) | {"whole_split": True}
        Report(
            results=[
                Result(variant="original", bits_per_byte=bits),
                Result(variant="int8", bits_per_byte=bits),
                Result(variant="xz", kind="baseline", bits_per_byte=3.0),
            ],
            sources=[],
            continuations=[],
            memorised=[],
            facts=Facts(**facts),
            sample="",
        ).write(out)
        if kept:
            write_parquet(out / "documents" / "part-00000.parquet", pa.Table.from_pylist(rows))
        return Outcome(1, 1)

    order = Order("evaluate", "code", {"bits": bits, "hours": hours}, {})
    artifact, _ = store.make(order, store.slot("evaluate", order.key), build)
    began = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hours)
    keys, folders = {"evaluate": order.key}, {"evaluate": artifact.path.name}
    record = runs.RunRecord(recipe={"name": recipe}, started=began, keys=keys, folders=folders)
    runs.record(store, f"{recipe}-{hours}", record)
    return artifact


def test_the_previous_evaluation_is_that_of_the_same_recipe(store: Store) -> None:
    first = evaluated(store, 1, 2.0)
    other = evaluated(store, 2, 1.9, recipe="small")
    second = evaluated(store, 3, 1.8)
    third = evaluated(store, 4, 1.7)
    assert [find_previous(store, one) for one in (first, other, second, third)] == [None, None, first, second]


def test_a_difference_has_its_significance(store: Store) -> None:
    evaluated(store, 1, 2.0)
    report, news = beside_previous(store, evaluated(store, 2, 1.9))
    assert [row.variant for row in report.results] == ["original", "int8", "evaluate@1 (previous)", "xz"]
    before = report.results[2]
    assert before.kind == "previous" and before.difference == pytest.approx(0.1, abs=0.01)
    assert before.difference_low is not None and before.difference_low > 0
    assert "bits per byte fewer than evaluate@1" in news[0] and news[0].endswith(": significant.")
    _, news = beside_previous(store, evaluated(store, 3, 1.9))
    assert "evaluate@2" in news[0] and news[0].endswith(": not significant.")
    _, news = beside_previous(store, evaluated(store, 4, 2.0))
    assert "bits per byte more than evaluate@3" in news[0] and "95%: +0." in news[0]


def test_a_report_says_why_two_evaluations_cannot_be_compared(store: Store) -> None:
    assert beside_previous(store, evaluated(store, 1, 2.0, kept=False))[1] == []
    report, news = beside_previous(store, evaluated(store, 2, 1.9))
    assert news == ["evaluate@1, the previous version, has no costs per document, so the two cannot be compared."]
    assert report.results[2].difference is None
    _, news = beside_previous(store, evaluated(store, 3, 1.9, first=1))
    assert news == ["evaluate@2, the previous version, has another test split, so the two cannot be compared."]


def test_of_one_document_nothing_is_significant(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.evaluation.test_previous.DOCUMENTS", 1)
    evaluated(store, 1, 2.0)
    report, news = beside_previous(store, evaluated(store, 2, 1.0))
    assert news[0].endswith("fewer than evaluate@1, the previous version (1 document: no interval).")
    previous = report.results[2]
    assert previous.difference is not None and previous.difference_low is None
