import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from random import Random

import pyarrow.parquet as pq
import pytest

from homegrown.config.corpus import ShardSettings
from homegrown.corpus import shard as engine
from homegrown.corpus.shard import shard
from homegrown.corpus.split_choice import SPLITS
from homegrown.util.errors import UserError
from homegrown.util.progress import Metric, Outcome
from tests.corpus.made_up import corpus, digests, edited, jaccard, rows_of, sentence, write_documents

SETTINGS = ShardSettings(validation_share=0.1, test_share=0.2, shard_mb=0.05, max_similarity=1.0)


def sharded(base: Path, settings: ShardSettings, seed: int = 1) -> Outcome:
    with ThreadPoolExecutor(2) as executor:
        return shard(base / "out", base / "in", settings, seed=seed, executor=executor)


def run(base: Path, texts: list[str], rows: int = 100, seed: int = 1) -> Outcome:
    write_documents(base / "in", texts, rows)
    return sharded(base, SETTINGS, seed)


def ids(base: Path) -> dict[str, list[str]]:
    return {split: [row["id"] for row in rows_of(base / "out" / split)] for split in SPLITS}


def test_every_document_is_in_one_split_of_about_its_share(tmp_path: Path) -> None:
    texts = sorted(set(corpus(1, 1500)))
    outcome = run(tmp_path, texts)
    expected = rows_of(tmp_path / "in" / "documents")
    found = [row for split in SPLITS for row in rows_of(tmp_path / "out" / split)]
    assert sorted(found, key=lambda row: (row["id"], row["position"])) == sorted(
        expected, key=lambda row: (row["id"], row["position"])
    )
    sizes = {split: len(own) for split, own in ids(tmp_path).items()}
    shares = {split: size / len(texts) for split, size in sizes.items()}
    assert 0.66 < shares["train"] < 0.74 and 0.07 < shares["validation"] < 0.13 and 0.16 < shares["test"] < 0.24
    assert [outcome.metrics[f"{split}_documents"] for split in SPLITS] == list(sizes.values())
    texts_bytes = sum(len(row["text"].encode()) for row in expected)
    assert sum(int(outcome.metrics[f"{split}_bytes"]) for split in SPLITS) == texts_bytes
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*SPLITS, "dropped"}


def test_shards_are_even_and_shuffled(tmp_path: Path) -> None:
    run(tmp_path, corpus(1, 1500))
    parts = sorted((tmp_path / "out" / "train").iterdir())
    sizes = [sum(map(len, pq.read_table(part)["text"].to_pylist())) for part in parts]
    assert len(parts) > 5
    assert all(abs(size / 50_000 - 1) < 0.15 for size in sizes)
    positions = [row["position"] for row in rows_of(tmp_path / "out" / "train")]
    later = sum(a < b for a, b in pairwise(positions))
    assert 0.4 < later / len(positions) < 0.6


@pytest.mark.parametrize(("fine", "most"), [(1, 16_384), (16, 3), (16, 1)])
def test_buckets_and_shards_of_the_input_do_not_change_a_byte_but_the_seed_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fine: int, most: int
) -> None:
    texts = sorted(set(corpus(2, 600)))
    run(tmp_path / "one", texts)
    monkeypatch.setattr(engine, "_FINE", fine)
    monkeypatch.setattr(engine, "_BUCKETS", most)
    run(tmp_path / "other", texts, rows=37)
    for part in SPLITS:
        assert digests(tmp_path / "one" / "out" / part) == digests(tmp_path / "other" / "out" / part)
    assert ids(tmp_path / "one") == ids(tmp_path / "other")
    run(tmp_path / "seed", texts, seed=2)
    assert ids(tmp_path / "seed")["test"] != ids(tmp_path / "one")["test"]


def test_a_document_keeps_its_split_when_others_come(tmp_path: Path) -> None:
    texts = sorted(set(corpus(3, 600)))
    run(tmp_path / "few", texts[:300])
    run(tmp_path / "many", texts)
    few, many = ids(tmp_path / "few"), ids(tmp_path / "many")
    assert all(set(few[split]) <= set(many[split]) for split in SPLITS)


@pytest.mark.parametrize("seed", range(5))
def test_of_a_few_files_at_least_one_is_held_out_for_each(tmp_path: Path, seed: int) -> None:
    few = ShardSettings(validation_share=0.01, test_share=0.01, max_similarity=1.0)
    texts = sorted(set(corpus(1, 20)))
    for count in (3, len(texts)):
        base = tmp_path / str(count)
        write_documents(base / "in", texts[:count], 100)
        sharded(base, few, seed)
        assert [len(of_split) for of_split in ids(base).values()] == [count - 2, 1, 1]


def test_a_corpus_too_small_to_split_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"too small: 2 documents leave none for \w+; add text"):
        run(tmp_path / "two", ["one", "two"])
    with pytest.raises(UserError, match="0 documents"):
        run(tmp_path / "none", [])


class Stop(BaseException):
    pass


def test_a_run_that_was_cut_short_anywhere_is_finished_and_repeats_no_finished_file(tmp_path: Path) -> None:
    run(tmp_path / "complete", corpus(1, 300))
    expected = digests(tmp_path / "complete" / "out")
    write_documents(tmp_path / "in", corpus(1, 300), 100)
    before: dict[Path, int] = {}

    def files() -> dict[Path, int]:
        return {path: path.stat().st_ino for path in (tmp_path / "out").rglob("[!.]*.*") if path.suffix != ".npy"}

    def stop_after(calls: int) -> Callable[..., None]:
        left = [calls]

        def progress(*_: float, **__: Metric) -> None:
            left[0] -= 1
            if not left[0]:
                raise Stop

        return progress

    for calls in range(1, 9):  # while signing, spreading and writing
        with ThreadPoolExecutor(1) as executor, pytest.raises(Stop):
            shard(tmp_path / "out", tmp_path / "in", SETTINGS, seed=1, executor=executor, progress=stop_after(calls))
        now = files()
        assert before.items() <= now.items()
        before = now
    sharded(tmp_path, SETTINGS)
    assert digests(tmp_path / "out") == expected


def test_no_training_text_is_like_a_held_out_one(tmp_path: Path) -> None:
    random = Random(1)
    originals = [sentence(random, 120) for _ in range(300)]
    texts = [" ".join(words) for words in originals]
    texts += [" ".join(edited(random, words, 0.04)) for words in originals]  # Jaccard about 0.65, below dedup's 0.7
    write_documents(tmp_path / "in", texts)
    settings = SETTINGS.model_copy(update={"max_similarity": 0.4})
    outcome = sharded(tmp_path, settings)
    splits = {split: {row["id"]: row["text"] for row in rows_of(tmp_path / "out" / split)} for split in SPLITS}
    for split in ("validation", "test"):
        for text in splits[split].values():
            assert max(jaccard(text, other) for other in splits["train"].values()) < 0.55
    dropped = rows_of(tmp_path / "out" / "dropped")
    assert len(dropped) > 50
    by_id = {row["id"]: row["text"] for row in rows_of(tmp_path / "in" / "documents")}
    for row in dropped:
        split = row["reason"].removeprefix("near_")
        assert row["similar_to"] in splits[split] and row["id"] not in splits["train"]
        assert abs(jaccard(by_id[row["id"]], by_id[row["similar_to"]]) - row["similarity"]) < 0.2
    assert outcome.rows_in == 600 == outcome.rows_out + len(dropped)


def test_what_shares_13_words_with_an_evaluation_is_dropped_with_the_words(tmp_path: Path) -> None:
    random = Random(2)
    words = [" ".join(sentence(random, 13)) for _ in range(3)]
    texts = [" ".join(sentence(random, 80)) for _ in range(200)]
    rows = [{"question": "Q. " + words[0] + "?", "deep": [words[1]]}, {"question": "too short"}]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "other.txt").write_text(f"Before. {words[2]} After.")
    shown = [words[0].upper().replace(" ", " - "), words[1], words[2]]
    texts += [f"Lead in, {run} and out." for run in shown]
    texts += [" ".join(words[0].split()[:12]) + " and no more"]
    paths = [str(tmp_path / "test.jsonl"), str(tmp_path / "other.txt")]
    settings = SETTINGS.model_copy(update={"decontaminate": paths, "validation_share": 0.01, "test_share": 0.01})
    write_documents(tmp_path / "in", texts)
    outcome = sharded(tmp_path, settings, 4)
    dropped = {row["words"]: row["file"] for row in rows_of(tmp_path / "out" / "dropped")}
    assert dropped == {shown[0]: paths[0], shown[1]: paths[0], shown[2]: paths[1]}
    assert outcome.metrics["dropped_contaminated"] == 3 and outcome.metrics["evaluation_texts_too_short"] == 1
    with pytest.raises(UserError, match="file nowhere not found"):
        sharded(tmp_path, SETTINGS.model_copy(update={"decontaminate": ["nowhere"]}))
    (tmp_path / "bad.jsonl").write_text("{broken")
    with pytest.raises(UserError, match=r"bad\.jsonl cannot be read"):
        sharded(tmp_path, SETTINGS.model_copy(update={"decontaminate": [str(tmp_path / "bad.jsonl")]}))
