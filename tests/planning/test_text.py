"""How many training tokens there are: estimated from the sources, and counted where they are packed."""

import gzip
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from homegrown.config.pipelines import load_recipe
from homegrown.config.recipe import Recipe
from homegrown.data.index import read_index
from homegrown.planning.text import text_of
from homegrown.store import runs
from homegrown.store.artifacts import Store
from homegrown.store.manifest import Order
from homegrown.util.progress import Outcome
from tests.flows.small import small_recipe, write_corpus

VOCABULARY = 4096


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Recipe]:
    write_corpus(tmp_path / "data")
    return lambda *changes: small_recipe(tmp_path / "data", *changes)


def record(store: Store, recipe: Recipe, tokens: int) -> None:
    """Publish what a run until `pack` would: its artifacts of ingest and pack, and the run."""
    keys: dict[str, str] = {}
    for stage, metrics in {"ingest": {"text_bytes": 5_000}, "pack": {"train_tokens": tokens}}.items():
        order = Order(stage, f"code of {tokens}", {}, dict(keys))
        store.make(order, store.slot(stage, order.key), lambda out, metrics=metrics: Outcome(1, 1, metrics=metrics))
        keys[stage] = order.key
    run = runs.RunRecord(recipe=recipe.model_dump(mode="json"), started=datetime.now(UTC), keys=keys)
    runs.record(store, f"run-{tokens}", run)


def test_without_a_run_the_size_of_the_files_is_what_is_known(store: Store, recipe: Callable[..., Recipe]) -> None:
    size = sum(file.stat().st_size for file in Path(recipe().ingest.sources[0].path).iterdir())
    found = text_of(store, recipe(), VOCABULARY)
    assert not found.counted
    assert found.bytes == size
    assert found.tokens is not None
    assert 2.5 < size / found.tokens < 6  # of byte-level BPE on English, whatever its vocabulary


def test_limits_weights_and_compression_count(store: Store, tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"{number}.txt.gz").write_bytes(gzip.compress(b"word " * 200_000 * number))
    source = f"{{kind: files, name: notes, path: {tmp_path}/*.gz}}"
    full = text_of(store, load_recipe("tiny", [f"ingest.sources=[{source}]"]), VOCABULARY).bytes
    packed = sum(file.stat().st_size for file in tmp_path.glob("*.gz"))
    half = text_of(store, load_recipe("tiny", [f"ingest.sources=[{source[:-1]}, weight: 0.5}}]"]), VOCABULARY).bytes
    limited = text_of(store, load_recipe("tiny", [f"ingest.sources=[{source[:-1]}, limit_mb: 0.001}}]"]), VOCABULARY)
    assert full == 3 * packed
    assert half == full // 2
    assert limited.bytes == 1000


def test_a_hub_dataset_without_a_limit_is_not_guessed_at(store: Store) -> None:
    found = text_of(store, load_recipe("large"), VOCABULARY)
    assert (found.tokens, found.bytes) == (None, None)


def test_packed_tokens_are_counted_for_the_same_text_only(store: Store, recipe: Callable[..., Recipe]) -> None:
    record(store, recipe("shard.test_share=0.05"), 111)
    record(store, recipe(), 222)
    record(store, recipe("filter.min_characters=300"), 333)
    # What comes after `pack` does not matter.
    found = text_of(store, recipe("training.max_steps=99", "model.layers=3"), VOCABULARY)
    assert (found.tokens, found.counted, found.bytes) == (222, True, 5_000)
    assert not text_of(store, recipe("seed=9"), VOCABULARY).counted


@pytest.mark.parametrize("vocabulary", [300, 70_000])
def test_made_up_tokens_are_what_the_loader_and_the_tokenizer_read(tmp_path: Path, vocabulary: int) -> None:
    from homegrown.data.loader import TokenSplit
    from homegrown.planning.synthetic import write_synthetic
    from homegrown.tokenizer.loading import load, token_bytes

    write_synthetic(tmp_path, vocabulary, context=16, windows=5)
    split, tokenizer = TokenSplit(tmp_path / "packed", "train"), load(tmp_path / "tokenizer")
    assert split.windows(16) == 5
    assert split.document(0).max() < vocabulary == read_index(tmp_path / "packed").vocabulary_size
    assert len(token_bytes(tokenizer)) == vocabulary
    text = "Grüße, made-up merges!"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
