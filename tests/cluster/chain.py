"""The corpus and token stages as artifacts of a store, on any executor."""

from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from pathlib import Path

from homegrown.config.corpus import DedupSettings, ShardSettings
from homegrown.config.pipelines import load_recipe
from homegrown.config.tokens import PackSettings, TokenizerSettings
from homegrown.corpus.dedup import dedup
from homegrown.corpus.filter import filter_documents
from homegrown.corpus.ingest import ingest
from homegrown.corpus.shard import shard
from homegrown.data.packing import pack
from homegrown.store.artifacts import Store
from homegrown.store.manifest import Artifact, Order
from homegrown.tokenizer.train import train_tokenizer
from homegrown.util.progress import Outcome
from tests.corpus.made_up import digests, files

Open = Callable[[Path], AbstractContextManager[Executor]]


def make(
    store: Store,
    raw: str,
    executor: Open,
    at_progress: Callable[[str], None] = lambda stage: None,
    fresh: str | None = None,
) -> None:
    """Make all stages, one of them anew; `at_progress` gets the stage's name whenever a shard is done."""

    def stage(name: str, build: Callable[[Path], Outcome]) -> Artifact:
        order = Order(name, "code", {}, {})
        artifact, _ = store.make(order, store.slot(name, order.key, fresh=name == fresh), build)
        return artifact

    def in_shards(name: str, build: Callable[[Path, Executor], Outcome]) -> Artifact:
        def within(out: Path) -> Outcome:
            with executor(out) as pool:
                return build(out, pool)

        return stage(name, within)

    rules = load_recipe("tiny", ["filter.min_characters=400", "filter.min_alphabetic_share=0.2"]).filter

    def report(name: str) -> Callable[..., None]:
        return lambda *_, **__: at_progress(name)

    read = in_shards(
        "ingest", lambda out, pool: ingest(out, files(raw, shard_mb=0.03), executor=pool, progress=report("ingest"))
    )
    unique = in_shards(
        "dedup",
        lambda out, pool: dedup(
            out, read.path, DedupSettings(), seed=1, memory_gb=0.5, executor=pool, progress=report("dedup")
        ),
    )
    passed = in_shards(
        "filter",
        lambda out, pool: filter_documents(out, unique.path, rules, executor=pool, progress=report("filter")),
    )
    settings = ShardSettings(shard_mb=0.05, validation_share=0.1, test_share=0.1)
    split = in_shards("shard", lambda out, pool: shard(out, passed.path, settings, seed=1, executor=pool))
    small = TokenizerSettings(vocabulary_size=320, sample_mb=1)
    tokenizer = stage("tokenizer", lambda out: train_tokenizer(out, split.path, small))
    in_shards(
        "pack",
        lambda out, pool: pack(out, split.path, tokenizer.path, PackSettings(), executor=pool, progress=report("pack")),
    )


def content(store: Store) -> dict[str, str]:
    """Return the SHA-256 of every published file but the manifests, which tell the time."""
    return {
        name: digest
        for name, digest in digests(store.root).items()
        if not name.startswith(".state/") and not name.endswith("manifest.json")
    }
