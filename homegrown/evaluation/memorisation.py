"""What of a text stands word for word in the training text: its longest run of tokens, and the document it is from."""

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
from homegrown.tokenizer.sample import read_shard

_AT_ONCE = 4_000_000
"""Tokens of the training text in memory at once."""


@dataclass(frozen=True)
class Match:
    """A run of tokens of a sequence that stands in the training text too.

    `length` tokens from `start` in the sequence; `end` is the place in the training split of the last one, -1 where
    nothing matches.
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

    Exact, for runs of any length, and of all sequences in one pass over the shards that the index names: they are read
    through the suffix automaton of the sequences, of which memory grows with these alone. No run goes beyond a training
    document, because the marks around documents are in no sequence.
    """
    split = TokenSplit(packed, "train")
    # Between two sequences, a token that the training text has not.
    parted = [token for sequence in sequences for token in [*sequence, split.vocabulary_size]]
    automaton = Automaton.of(parted, split.vocabulary_size + 1)
    reading, first = automaton.start(), 0
    for file in read_index(packed).splits["train"]:
        # A piece's first tokens stand at the end of the one before too, so that a match may lie across the cut.
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
    """Return the training document whose tokens hold `place`.

    Found by its text in the one shard of documents from which its shard of tokens was packed, since packing may put
    documents in another order.

    Raises:
        ValueError: the shards are not those that were packed.
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
            text = tokenizer.decode(tokens[1:-1].tolist(), skip_special_tokens=False)
            return _document(shards / "train" / f"part-{_part(file.tokens_file)}.parquet", text)
        first += file.tokens
    raise ValueError(f"place {place} is beyond the {first} tokens of the training split")


def _part(tokens_file: str) -> str:
    """Return the number of the shard of documents that a shard of tokens was made from."""
    return Path(tokens_file).name.split("-")[1]


def _document(shard: Path, text: str) -> Origin:
    for batch in read_shard(shard, ["id", "text", "source"]):
        same = pc.index(batch["text"], text).as_py()
        if same >= 0:
            return Origin(batch["id"][same].as_py(), batch["source"][same].as_py())
    raise ValueError(f"{shard} does not hold the text that was packed from it")
