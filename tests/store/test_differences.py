"""Why an artifact differs from the previous one."""

from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import pytest

from homegrown.store import fingerprint
from homegrown.store.artifacts import Store
from homegrown.store.differences import reasons
from homegrown.store.fingerprint import code_fingerprint
from homegrown.store.manifest import Manifest, Order


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


def test_each_kind_of_difference_is_named(store: Store) -> None:
    before = order(settings={"size": 1, "limit": 5}, seed=1, raw={"packages": "a", "notes": "b"}, inputs={"base": "x"})
    now = order(
        "two", settings={"size": 2, "limit": 6}, seed=2, raw={"packages": "c", "notes": "b"}, inputs={"base": "y"}
    )
    found = [str(reason) for reason in reasons(store, manifest(before), now)]
    assert found == [
        "size 1 → 2",
        "seed 1 → 2",
        "other raw input (packages)",
        "other code of homegrown",
        "other base",
    ]


def test_a_setting_that_changes_no_content_is_no_reason(store: Store) -> None:
    before, now = order(settings={"size": 1, "limit": 5}), order(settings={"size": 1, "limit": 6})
    assert before.key == now.key
    assert reasons(store, manifest(before), now) == []


def test_changed_code_is_named_by_its_modules(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = store.root / ".state" / "code.sqlite"
    codes = [code_fingerprint(["homegrown.util.seeds"], cache)]
    monkeypatch.setattr(fingerprint, "_parsed", lambda file: f'["changed {file.stem}", []]')
    monkeypatch.setattr(fingerprint, "Digests", lambda cache: nullcontext())
    codes.append(code_fingerprint(["homegrown.util.seeds"], cache))
    (found,) = reasons(store, manifest(order(codes[0])), order(codes[1]))
    assert str(found) == "other code of homegrown (util.seeds)"
    (unknown,) = reasons(store, manifest(order("elsewhere")), order(codes[1]))
    assert str(unknown) == "other code of homegrown"
