"""Longest matches with the training text against looking for them one by one."""

import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from homegrown.data.loader import TokenSplit
from homegrown.evaluation import memorization
from homegrown.evaluation.automaton import Automaton
from homegrown.evaluation.memorization import longest_matches, origin


def longest_suffix(run: list[int], text: str) -> int:
    """The longest suffix of `run` that occurs in `text`, both as letters."""
    letters = "".join(map(chr, run))
    return next(length for length in range(len(letters), -1, -1) if letters[len(letters) - length :] in text)


@pytest.mark.parametrize("seed", range(40))
def test_matches_are_those_of_a_search(seed: int) -> None:
    dice = random.Random(seed)
    alphabet = dice.choice([1, 2, 3, 5])
    sequence = [dice.randrange(97, 97 + alphabet) for _ in range(dice.randint(1, 40))]
    text = [dice.randrange(97, 97 + alphabet + 1) for _ in range(dice.randint(1, 60))]
    reading = Automaton.of(sequence, 128).start()
    reading.read(np.array(text), 1000)
    lengths, ends = reading.matches()
    expected = [longest_suffix(sequence[: stop + 1], "".join(map(chr, text))) for stop in range(len(sequence))]
    assert lengths.tolist() == expected
    for stop, (length, end) in enumerate(zip(lengths.tolist(), ends.tolist(), strict=True)):
        if length:
            assert text[end - 999 - length : end - 999] == sequence[stop + 1 - length : stop + 1]


@pytest.mark.parametrize("layout", ["contiguous", "best_fit"])
def test_a_run_and_its_document_are_found(
    stages: Path, fitted: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    packed = stages / "pack" if layout == "contiguous" else fitted
    monkeypatch.setattr(memorization, "_AT_ONCE", 37)  # many cuts, some of them within a match
    train = TokenSplit(packed, "train")
    documents = [train.document(number).tolist() for number in (0, 17, 39)]
    sequences = [[*documents[0][5:30]], [*documents[1][2:9], 6, *documents[2][3:44]], [6, 6], []]
    found = longest_matches(packed, sequences)
    assert [match.length for match in found][2:] == [0, 0]
    assert found[0].length >= 25 and found[1].length >= 41
    for match, sequence in zip(found[:2], sequences, strict=False):
        run = sequence[match.start : match.start + match.length]
        assert train.read_at([match.end - match.length + 1], match.length)[0].tolist() == run
    where = origin(packed, stages / "shard", tokenizer, found[1].end)
    table = pq.read_table(stages / "shard" / "train").to_pylist()
    row = next(row for row in table if row["id"] == where.document)
    run = sequences[1][found[1].start : found[1].start + found[1].length]
    assert tokenizer.decode(run) in row["text"] and row["source"] == where.source
