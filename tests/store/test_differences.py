"""Why an artifact differs from the previous one."""

from datetime import UTC, datetime
from typing import Any

from homegrown.store.artifacts import Manifest, Order
from homegrown.store.differences import reasons


def manifest(order: Order) -> Manifest:
    return Manifest(
        stage=order.stage,
        version=1,
        key=order.key,
        settings=dict(order.settings),
        inputs=dict(order.inputs),
        code=order.code,
        libraries={},
        host={},
        started=datetime.now(UTC),
        seconds=1,
        rows_in=1,
        rows_out=1,
        unit="rows",
        metrics={},
        files={},
    )


def order(code: str = "one", inputs: Any = (), **settings: Any) -> Order:
    return Order("ingest", code, settings, dict(inputs), {"settings": frozenset({"limit"})})


def test_each_kind_of_difference_is_named() -> None:
    before = order(settings={"size": 1, "limit": 5}, seed=1, raw={"packages": "a", "notes": "b"}, inputs={"base": "x"})
    now = order(
        "two", settings={"size": 2, "limit": 6}, seed=2, raw={"packages": "c", "notes": "b"}, inputs={"base": "y"}
    )
    found = [str(reason) for reason in reasons(manifest(before), now)]
    assert found == [
        "size 1 → 2",
        "seed 1 → 2",
        "other raw input (packages)",
        "other code of homegrown",
        "other base",
    ]


def test_a_setting_that_changes_no_content_is_no_reason() -> None:
    before, now = order(settings={"size": 1, "limit": 5}), order(settings={"size": 1, "limit": 6})
    assert before.key == now.key
    assert reasons(manifest(before), now) == []
