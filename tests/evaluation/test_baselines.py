"""Counting models against the published formulas, and compressors against complete files."""

import gzip
import lzma
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from homegrown.data.loader import TokenSplit
from homegrown.evaluation.compressors import compressed_bits_per_byte
from homegrown.evaluation.ngrams import five_gram_costs, kneser_ney, unigram_costs

SIZE = 60


def text(seed: int, length: int) -> np.ndarray:
    """A text in which few tokens are common and many are rare, and some follow others more often."""
    draws = np.random.default_rng(seed)
    tokens = [0]
    for rare in np.minimum(draws.zipf(1.4, length - 1), SIZE).tolist():
        tokens.append((tokens[-1] * 7 + 1) % SIZE if draws.random() < 0.3 else rare - 1)
    return np.array(tokens)


class ByTheBook:
    """Chen and Goodman (1999), equations 12 to 17, with dictionaries."""

    def __init__(self, tokens: list[int], order: int) -> None:
        self.counts = {order: Counter(tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1))}
        for n in range(order - 1, 0, -1):
            left = {(tokens[i - 1] if i else None, *tokens[i : i + n]) for i in range(len(tokens) - n + 1)}
            self.counts[n] = Counter(one[1:] for one in left)

    def probability(self, context: tuple[int, ...], token: int) -> float:
        n = len(context) + 1
        lower = self.probability(context[1:], token) if n > 1 else 1 / SIZE
        counts = {gram: count for gram, count in self.counts[n].items() if gram[:-1] == context}
        if not counts:
            return lower
        total, have = sum(counts.values()), Counter(self.counts[n].values())
        assert have[1] and have[2] and have[3]  # else the formulas say nothing
        y = have[1] / (have[1] + 2 * have[2])
        discount = {
            1: 1 - 2 * y * have[2] / have[1],
            2: 2 - 3 * y * have[3] / have[2],
            3: 3 - 4 * y * have[4] / have[3],
        }
        left = sum(discount[min(3, count)] for count in counts.values()) / total
        own = counts.get((*context, token), 0)
        return (own - discount[min(3, own)] if own else 0) / total + left * lower


@pytest.mark.parametrize("order", [1, 2, 3])
def test_kneser_ney_is_that_of_the_paper(order: int) -> None:
    train, test = text(3, 600), text(2, 60)
    book = ByTheBook(train.tolist(), order)
    targets = np.arange(1, 60)
    found = kneser_ney(train, SIZE, test, targets, targets, order)
    for place, chance in zip(targets.tolist(), found.tolist(), strict=True):
        context = tuple(test[max(0, place - order + 1) : place].tolist())
        assert chance == pytest.approx(book.probability(context, int(test[place])), rel=1e-9)


def test_all_tokens_together_are_certain() -> None:
    train = text(1, 3000)
    for context in ([3, 6, 5], [1, 1, 1, 1], [0]):
        chances = [
            kneser_ney(train, SIZE, np.array([*context, token]), np.array([len(context)]), np.array([len(context)]))[0]
            for token in range(SIZE)
        ]
        assert sum(chances) == pytest.approx(1)


def test_only_what_may_be_known_is_used(stages: Path) -> None:
    train = TokenSplit(stages / "pack", "train")
    tokens = TokenSplit(stages / "pack", "test").read_at([0], 300)[0]
    targets = np.arange(1, 300)
    blind = five_gram_costs(train, tokens, targets, np.zeros(299, dtype=np.int64))
    known = five_gram_costs(train, tokens, targets, targets)
    assert known.mean() < blind.mean()
    assert len({round(cost, 9) for cost, token in zip(blind, tokens[1:], strict=True) if token == tokens[5]}) == 1


def test_unigrams_are_shares_of_the_training_text(stages: Path) -> None:
    train = TokenSplit(stages / "pack", "train")
    counts = Counter(train.read_at([0], train.tokens)[0].tolist())
    tokens = np.array([0, 9, 40])
    expected = [-math.log((counts[one] + 1) / (train.tokens + train.vocabulary_size)) for one in tokens.tolist()]
    assert unigram_costs(train, tokens).tolist() == pytest.approx(expected)


def test_compressors_make_what_they_make_of_one_file(stages: Path) -> None:
    texts = {
        split: "".join(pq.read_table(stages / "shard" / split)["text"].to_pylist()).encode()
        for split in ("train", "test")
    }
    found = compressed_bits_per_byte(stages / "shard")
    size = len(texts["test"])
    assert found["gzip"] == 8 * len(gzip.compress(texts["test"], 9)) / size

    def packed(data: bytes) -> int:
        return len(lzma.compress(data, check=lzma.CHECK_NONE))

    assert found["xz"] == 8 * packed(texts["test"]) / size
    (primed,) = found.keys() - {"gzip", "xz"}
    assert primed == f"xz after {len(texts['train']) / 1e3:.3g} kB"  # all there is, less than 2 MB
    assert found[primed] == 8 * (packed(texts["train"] + texts["test"]) - packed(texts["train"])) / size
    assert found[primed] < found["xz"]
