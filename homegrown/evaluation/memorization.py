"""The longest run of a completion's tokens that is in the training data, and the document with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from tokenizers import Tokenizer

from homegrown.data.index import read_index
from homegrown.data.loader import TokenSplit
from homegrown.data.rows import map_array
from homegrown.evaluation.automaton import Automaton
from homegrown.evaluation.heldout import without_marks
from homegrown.tokenizer.sample import read_shard
from homegrown.tokenizer.special import special_ids

_AT_ONCE = 4_000_000
"""Training tokens in memory at the same time."""


@dataclass(frozen=True)
class Match:
    """A run of tokens of a sequence that is in the training data too.

    `length` tokens from `start` in the sequence; `end` is the position in the training split of the last one, -1
    without a match.
    """

    length: int
    start: int
    end: int


@dataclass(frozen=True)
class Origin:
    """A training document."""

    document: str
    source: str


def longest_matches(packed: Path, sequences: Sequence[Sequence[int]]) -> list[Match]:
    """Return the longest run of each sequence that occurs in the training shards in the folder `packed`.

    This is exact for runs of any length, and takes one pass over the shards for all sequences: the shards are read
    through the suffix automaton of the sequences, whose memory grows with the sequences alone. No run crosses the end
    of a training document, because no sequence contains the tokens that mark it.
    """
    split = TokenSplit(packed, "train")
    # Between two sequences, a token that is not in the training data.
    parted = [token for sequence in sequences for token in [*sequence, split.vocabulary_size]]
    automaton = Automaton.of(parted, split.vocabulary_size + 1)
    reading, first = automaton.start(), 0
    for file in read_index(packed).splits["train"]:
        # A part repeats the last tokens of the previous part, so that a match across the cut is found.
        overlap = max(map(len, sequences), default=0)
        for start in range(0, file.tokens, _AT_ONCE):
            begin = max(0, start - overlap)
            length = min(file.tokens, start + _AT_ONCE) - begin
            reading.read(split.read_at([first + begin], length)[0], first + begin)
        first += file.tokens
    lengths, ends = reading.matches()
    found, place = [], 0
    for sequence in sequences:
        own = lengths[place : place + len(sequence)]
        best = int(own.argmax()) if len(own) else 0
        length = int(own[best]) if len(own) else 0
        found.append(Match(length, best - length + 1, int(ends[place + best])) if length else Match(0, 0, -1))
        place += len(sequence) + 1
    return found


def origin(packed: Path, shards: Path, tokenizer: Tokenizer, place: int) -> Origin:
    """Return the training document with the token at position `place`.

    It is found by its text in the shard of documents from which its shard of tokens was packed, because packing can
    reorder documents.

    Raises:
        ValueError: the tokens were packed from other shards.
    """
    split = TokenSplit(packed, "train")
    first = 0
    for file in read_index(packed).splits["train"]:
        if place < first + file.tokens:
            starts: npt.NDArray[np.int64] = map_array(packed / file.documents_file, (file.documents,))
            number = int(np.searchsorted(starts, place - first, side="right")) - 1
            stop = starts[number + 1] if number + 1 < len(starts) else file.tokens
            start = int(starts[number])
            tokens = split.read_at([first + start], int(stop) - start)[0]
            text = tokenizer.decode(without_marks(tokens, special_ids(tokenizer)).tolist(), skip_special_tokens=False)
            return _document(shards / "train" / f"part-{_part(file.tokens_file)}.parquet", text)
        first += file.tokens
    raise ValueError(f"position {place} is beyond the {first} tokens of the training split")


def _part(tokens_file: str) -> str:
    """Return the number of the shard of documents of a shard of tokens."""
    return Path(tokens_file).name.split("-")[1]


def _document(shard: Path, text: str) -> Origin:
    for batch in read_shard(shard, ["id", "text", "source"]):
        same = pc.index(batch["text"], text).as_py()
        if same >= 0:
            return Origin(batch["id"][same].as_py(), batch["source"][same].as_py())
    raise ValueError(f"{shard} does not contain the text that was packed from it")
