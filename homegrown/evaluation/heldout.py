"""The held-out documents: their positions among the tokens, and their ids in the corpus."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash
from tokenizers import Tokenizer

from homegrown.data.index import read_index
from homegrown.data.loader import TokenSplit
from homegrown.data.rows import map_array
from homegrown.tokenizer.encoding import Encoder
from homegrown.tokenizer.sample import read_shard
from homegrown.tokenizer.special import SpecialIds, special_ids
from homegrown.util.elsewhere import parts_of
from homegrown.util.errors import UserError


@dataclass(frozen=True)
class HeldOut:
    """The test split, and the start (int64), id and source of each of its documents in order."""

    split: TokenSplit
    starts: npt.NDArray[np.int64]
    ids: list[str]
    sources: list[str]

    def tokens(self) -> npt.NDArray[np.int64]:
        """Return all tokens of the split, int64 [tokens]."""
        tokens: npt.NDArray[np.int64] = self.split.read_at([0], self.split.tokens)[0]
        return tokens

    def texts(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the starts of the texts that a model reads, and their lengths in tokens; int64 [texts] each.

        The model reads as in training: all documents as one stream, or in the layout best_fit each on its own.
        """
        begins = np.zeros(1, dtype=np.int64) if self.split.context is None else self.starts
        return begins, np.diff(begins, append=self.split.tokens)


def open_held_out(packed: Path, shards: Path, tokenizer: Tokenizer) -> HeldOut:
    """Open the test split of the folder `packed`, made from the document shards in `shards`.

    Packing can reorder documents, so each is found by its tokens.

    Raises:
        UserError: a file is missing or damaged, or the tokens were made from other shards.
    """
    split = TokenSplit(packed, "test")
    files = read_index(packed).splits["test"]
    firsts = np.cumsum([0, *(file.tokens for file in files)])
    starts = [
        map_array(packed / file.documents_file, (file.documents,)) + first
        for file, first in zip(files, firsts[:-1], strict=True)
    ]
    known, marks = _known(shards / "test", tokenizer), special_ids(tokenizer)
    ids, sources = [], []
    for number in range(split.documents):
        same = known.get(_digest(without_marks(split.document(number), marks)))
        if not same:
            raise UserError(f"Document {number} of the test tokens is not in {shards / 'test'}; run pack again.")
        document_id, source = same.pop(0)
        ids.append(document_id)
        sources.append(source)
    return HeldOut(split, np.concatenate([np.empty(0, np.int64), *starts]), ids, sources)


def without_marks(document: npt.NDArray[np.int64], marks: SpecialIds) -> npt.NDArray[np.int64]:
    """Return the tokens of a document's text, without those that mark its start and end; plain text has neither."""
    text: npt.NDArray[np.int64] = document[(document != marks.start) & (document != marks.eos)]
    return text


def _known(shards: Path, tokenizer: Tokenizer) -> dict[int, list[tuple[str, str]]]:
    """Return id and source of all documents by the digest of their tokens; several for equal texts."""
    encoder = Encoder(tokenizer)
    known: dict[int, list[tuple[str, str]]] = {}
    for shard in parts_of(shards):
        for batch in read_shard(shard, ["id", "text", "source"]):
            columns = encoder.encode_all(batch["text"]), batch["id"].to_pylist(), batch["source"].to_pylist()
            for tokens, document_id, source in zip(*columns, strict=True):
                known.setdefault(_digest(tokens.astype(np.int64)), []).append((document_id, source))
    return known


def _digest(tokens: npt.NDArray[np.int64]) -> int:
    return xxhash.xxh3_128_intdigest(np.ascontiguousarray(tokens).data)
