from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from homegrown.corpus.shard import SPLITS, shard
from homegrown.errors import UserError
from homegrown.outcome import Outcome
from homegrown.recipe import ShardSettings
from tests.corpus.made_up import corpus, digests, rows_of, write_documents

SETTINGS = ShardSettings(validation_share=0.1, test_share=0.2, shard_mb=0.05)


def run(base: Path, texts: list[str], rows: int = 100, seed: int = 1, memory_gb: float = 1) -> Outcome:
    write_documents(base / "in", texts, rows)
    return shard(base / "out", base / "in", SETTINGS, seed=seed, memory_gb=memory_gb)


def ids(base: Path) -> dict[str, list[str]]:
    return {split: [row["id"] for row in rows_of(base / "out" / split)] for split in SPLITS}


def test_every_document_is_in_one_split_of_about_its_share(tmp_path: Path) -> None:
    texts = corpus(1, 1500)
    outcome = run(tmp_path, texts)
    expected = rows_of(tmp_path / "in" / "documents")
    found = [row for split in SPLITS for row in rows_of(tmp_path / "out" / split)]
    assert sorted(found, key=lambda row: (row["id"], row["position"])) == sorted(
        expected, key=lambda row: (row["id"], row["position"])
    )
    sizes = {split: len(own) for split, own in ids(tmp_path).items()}
    assert 1000 < sizes["train"] < 1100 and 110 < sizes["validation"] < 190 and 250 < sizes["test"] < 350
    assert [outcome.metrics[f"{split}_documents"] for split in SPLITS] == list(sizes.values())
    texts_bytes = sum(len(row["text"].encode()) for row in expected)
    assert sum(int(outcome.metrics[f"{split}_bytes"]) for split in SPLITS) == texts_bytes
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(SPLITS)


def test_shards_are_even_and_shuffled(tmp_path: Path) -> None:
    run(tmp_path, corpus(1, 1500))
    parts = sorted((tmp_path / "out" / "train").iterdir())
    sizes = [sum(map(len, pq.read_table(part)["text"].to_pylist())) for part in parts]
    assert len(parts) > 5
    assert all(abs(size / 50_000 - 1) < 0.15 for size in sizes)
    positions = [row["position"] for row in rows_of(tmp_path / "out" / "train")]
    later = sum(a < b for a, b in pairwise(positions))
    assert 0.4 < later / len(positions) < 0.6


def test_memory_and_shards_of_the_input_do_not_change_a_byte_but_the_seed_does(tmp_path: Path) -> None:
    texts = sorted(set(corpus(2, 600)))
    run(tmp_path / "one", texts)
    run(tmp_path / "other", texts, rows=37, memory_gb=1e-4)  # some ten buckets
    assert digests(tmp_path / "one" / "out").keys() == digests(tmp_path / "other" / "out").keys()
    assert ids(tmp_path / "one") == ids(tmp_path / "other")
    run(tmp_path / "seed", texts, seed=2)
    assert ids(tmp_path / "seed")["test"] != ids(tmp_path / "one")["test"]


def test_a_document_keeps_its_split_when_others_come(tmp_path: Path) -> None:
    texts = corpus(3, 600)
    run(tmp_path / "few", texts[:300])
    run(tmp_path / "many", texts)
    few, many = ids(tmp_path / "few"), ids(tmp_path / "many")
    assert all(set(few[split]) <= set(many[split]) for split in SPLITS)


def test_a_corpus_too_small_to_split_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"too small: of 2 documents none is left for \w+; add text"):
        run(tmp_path / "two", ["one", "two"])
    with pytest.raises(UserError, match="of 0 documents"):
        run(tmp_path / "none", [])


def test_a_run_that_was_cut_short_is_finished(tmp_path: Path) -> None:
    run(tmp_path, corpus(1, 300))
    expected = digests(tmp_path / "out")
    first = sorted((tmp_path / "out" / "train").iterdir())[0]
    first.unlink()
    (tmp_path / "out" / "spill").mkdir()
    (tmp_path / "out" / "spill" / "000.arrow").write_bytes(b"torn")
    run(tmp_path, corpus(1, 300))
    assert digests(tmp_path / "out") == expected
