"""A store with made-up runs, as the flow would leave them."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from homegrown.evaluation.overlap import bleu_of_one, rouge
from homegrown.store import runs
from homegrown.store.artifacts import Store
from homegrown.store.manifest import Order
from homegrown.training.metrics import METRICS_SCHEMA
from homegrown.util.files import write_parquet
from homegrown.util.progress import Outcome

REFERENCE = "one two three four five"
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def write_run(
    store: Store,
    name: str,
    rate: float = 0.1,
    hours: int = 0,
    bits: float = 2.0,
    recipe: str = "tiny",
    costs: Sequence[float] = (),
    completions: Sequence[str] = (),
    **more: Any,
) -> None:
    """Record a run of three stages, `ingest`, `pretrain` and `evaluate`, with a setting, curves and a table.

    `costs` are the bits of each test document, of 100 bytes and 25 tokens; without them there are 40 documents of equal
    cost. `completions` are those of prompts whose reference is `one two three four five`.
    """
    keys: dict[str, str] = {}
    folders: dict[str, str] = {}

    def made(stage: str, settings: dict[str, Any], inputs: list[str], build: Any) -> None:
        order = Order(stage, "code", {"settings": settings}, {one: keys[one] for one in inputs})
        artifact, _ = store.make(order, store.slot(stage, order.key), build)
        keys[stage], folders[stage] = order.key, artifact.path.name

    made("ingest", {"path": "data"}, [], lambda out: Outcome(3, 2, metrics={"text_bytes": 100}))
    made("pretrain", {"rate": rate}, ["ingest"], lambda out: _train(out, bits))
    made("evaluate", {"samples": 2}, ["pretrain"], lambda out: _evaluate(out, bits, costs, completions))
    run = runs.RunRecord(
        recipe={"name": recipe, "training": {"rate": rate, "steps": 4}},
        started=BEGAN + timedelta(hours=hours),
        finished=BEGAN + timedelta(hours=hours + 1),
        keys=keys,
        folders=folders,
        **more,
    )
    runs.record(store, name, run)


def _train(out: Path, bits: float) -> Outcome:
    steps = [
        {field.name: [] if pa.types.is_map(field.type) else 1 for field in METRICS_SCHEMA}
        | {"step": step, "loss": bits + 1 / step, "skipped": False, "validation_loss": bits if step == 4 else None}
        for step in range(1, 5)
    ]
    table = pa.Table.from_pylist(steps, METRICS_SCHEMA)
    write_parquet(out / "metrics.parquet", table)
    return Outcome(100, 40, "tokens", {"validation_bits_per_byte": bits + 0.5, "weights": "final"})


def _evaluate(out: Path, bits: float, costs: Sequence[float], completions: Sequence[str]) -> Outcome:
    documents = [
        {"variant": name, "id": f"{number:02}", "nats": (cost + 100 * more) * math.log(2), "tokens": 25, "bytes": 100}
        for number, cost in enumerate(costs or [100 * bits] * 40)
        for name, more in (("original", 0.0), ("int8<", 0.25))
    ]
    write_parquet(out / "documents" / "part-00000.parquet", pa.Table.from_pylist(documents))
    continued = [
        {
            "variant": "original",
            "id": f"{number:02}",
            "prompt": "count",
            "reference": REFERENCE,
            "continuation": text,
            "bleu": bleu_of_one(REFERENCE, text),
            **asdict(rouge(REFERENCE, text)),
        }
        for number, text in enumerate(completions)
    ]
    if continued:
        write_parquet(out / "continuations" / "part-00000.parquet", pa.Table.from_pylist(continued))
    rows = [
        {
            "variant": name,
            "bits_per_byte": bits + more,
            "bleu": 10 * bits,
            "rouge_l": 10 * bits,
            "self_bleu": 10 * bits,
            "device": "cpu",
        }
        for name, more in (("original", 0.0), ("int8<", 0.25))
    ]
    write_parquet(out / "results" / "part-00000.parquet", pa.Table.from_pylist(rows))
    return Outcome(2, 2, "variants", {"bits_per_byte": bits})
