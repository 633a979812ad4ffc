"""Shards whose files travel through a remote, without a cluster: the same bytes as without one."""

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from homegrown.cluster import relay
from homegrown.cluster.relay import Relay
from homegrown.config.recipe import DedupSettings, ShardSettings
from homegrown.corpus.dedup import dedup
from homegrown.corpus.shard import shard
from homegrown.store.artifacts import Order, Store
from homegrown.store.remote import Remote
from homegrown.util.progress import Outcome
from tests.corpus.made_up import corpus, digests, write_documents


class Elsewhere(Executor):
    """Runs each shard at once, in a folder that has only what was sent."""

    def __init__(self, carrier: Relay) -> None:
        self._relay = carrier

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        future.set_result(self._relay.unpack(fn, args, relay.run(fn, self._relay.pack(args))))
        return future


@pytest.mark.parametrize("stage", ["dedup", "shard"])
def test_a_stage_is_the_same_where_workers_see_no_folder(tmp_path: Path, stage: str) -> None:
    remote = Remote(str(tmp_path / "remote"))
    store = Store(tmp_path / "artifacts", remote)

    def read(out: Path) -> Outcome:
        write_documents(out, corpus(1, 600), 150)
        return Outcome(1, 1)

    given, _ = store.make(order := Order("given", "", {}, {}), store.slot("given", order.key), read)

    def run(out: Path, executor: Executor) -> Outcome:
        if stage == "dedup":
            return dedup(out, given.path, DedupSettings(), seed=1, memory_gb=0.5, executor=executor)
        settings = ShardSettings(validation_share=0.1, test_share=0.2, shard_mb=0.05, max_similarity=0.4)
        return shard(out, given.path, settings, seed=1, executor=executor)

    order = Order(stage, "", {}, {})
    made, _ = store.make(
        order, store.slot(stage, order.key), lambda out: run(out, Elsewhere(Relay(remote, store.root, out)))
    )
    with ThreadPoolExecutor(1) as executor:
        run(tmp_path / "here", executor)
    found = digests(made.path)
    found.pop("manifest.json")
    assert found == digests(tmp_path / "here")
