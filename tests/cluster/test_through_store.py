"""Shards whose files stay at a store, without a cluster: the same bytes as without one, and only a manifest here."""

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from homegrown.cluster import through_store
from homegrown.cluster.through_store import ThroughStore
from homegrown.config.corpus import DedupSettings, ParagraphSettings, ShardSettings
from homegrown.corpus import components
from homegrown.corpus.dedup import dedup
from homegrown.corpus.shard import shard
from homegrown.store.artifacts import Store
from homegrown.store.manifest import Artifact, Order
from homegrown.store.remote import Remote
from homegrown.util.progress import Outcome
from tests.corpus.made_up import corpus, digests, write_documents

_FOOTER = "All of these words are in many documents, and so all but the first of them lose this line."


class Elsewhere(Executor):
    """Runs each shard at once, in a folder that has only what was sent; it may break after some."""

    def __init__(self, exchange: ThroughStore, most: int) -> None:
        self._exchange = exchange
        self._most = most
        self.calls = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        if done := self._exchange.delivered(fn, args):
            future.set_result(done[0])
            return future
        self.calls += 1
        if self.calls == self._most:
            raise KeyboardInterrupt
        delivery = through_store.run(fn, self._exchange.pack(args))
        future.set_result(self._exchange.unpack(fn, args, delivery))
        return future


def given(store: Store) -> Artifact:
    """Return published documents whose files are at the remote alone."""

    def build(out: Path) -> Outcome:
        texts = [f"{text}\n{_FOOTER}" if number % 3 else text for number, text in enumerate(corpus(1, 600))]
        write_documents(out, [*texts, _FOOTER], 150)
        return Outcome(1, 1)

    order = Order("given", "", {}, {})
    elsewhere = Store(store.root.parent / "elsewhere", store.remote)
    elsewhere.make(order, elsewhere.slot("given", order.key), build)
    found, made = store.make(order, store.slot("given", order.key), build, files_stay=True)
    assert not made
    return found


def call(stage: str, out: Path, documents: Path, executor: Executor) -> Outcome:
    if stage == "shard":
        settings = ShardSettings(validation_share=0.1, test_share=0.2, shard_mb=0.05, max_similarity=0.4)
        return shard(out, documents, settings, seed=1, executor=executor)
    paragraphs = ParagraphSettings(unit="line", min_documents=2) if stage == "paragraphs" else None
    settings_ = DedupSettings(paragraphs=paragraphs, verification="signature" if stage == "paragraphs" else "jaccard")
    return dedup(out, documents, settings_, seed=1, memory_gb=0.5, executor=executor)


@pytest.mark.parametrize("stage", ["dedup", "paragraphs", "labels", "shard"])
def test_a_stage_is_the_same_and_its_files_stay_at_the_store(
    tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = Remote(str(tmp_path / "remote"))
    store = Store(tmp_path / "artifacts", remote)
    documents = given(store)
    if stage == "labels":
        monkeypatch.setattr(components, "UNION_MEMORY", 0)
    order = Order(stage, "", {}, {})
    slot = store.slot(stage, order.key)
    calls: list[int] = []

    def build(out: Path, most: int) -> Outcome:
        executor = Elsewhere(ThroughStore(remote, store.root, out), most)
        try:
            return call(stage, out, documents.path, executor)
        finally:
            calls.append(executor.calls)

    with pytest.raises(KeyboardInterrupt):
        store.make(order, slot, lambda out: build(out, 4))
    with pytest.raises(KeyboardInterrupt):
        store.make(order, slot, lambda out: build(out, 6))
    made, _ = store.make(order, slot, lambda out: build(out, 1000))
    whole = Store(tmp_path / "whole", remote)
    with ThreadPoolExecutor(1) as executor:
        call(stage, tmp_path / "here", whole.fetch(given(whole)).path, executor)
    here = digests(tmp_path / "here")
    assert {name: facts.sha256 for name, facts in made.manifest.files.items()} == here
    assert set(digests(documents.path)) == {"manifest.json"}
    assert set(digests(made.path)) == {"manifest.json"}
    assert not [path for path in (tmp_path / "remote").rglob("*") if ".partial" in path.name], "scratch is left"
    again = digests(Store(store.root, remote).fetch(made).path)
    again.pop("manifest.json")
    assert again == here
