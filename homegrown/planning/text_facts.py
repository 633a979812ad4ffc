"""What `homegrown run auto` has to know of a text: its bytes, how well they compress, and its bytes per token."""

import bz2
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from homegrown.config.recipe import Recipe
from homegrown.planning.fit import longest_document
from homegrown.planning.text import bytes_per_token, text_of
from homegrown.store.artifacts import Store
from homegrown.util.elsewhere import opened, parts_of
from homegrown.util.errors import UserError

_SAMPLE_BYTES, _SAMPLE_VOCABULARY = 1_000_000, 2048
_BZ2_BITS = {
    2_000: 4.23,
    5_000: 3.64,
    10_000: 3.27,
    20_000: 3.01,
    50_000: 2.74,
    100_000: 2.60,
    200_000: 2.52,
    500_000: 2.39,
}
"""Bits per byte of Wikipedia by bz2 by the size of the text, the mean of eight places: little text says little."""

_COMPARED, _BEGINNING = 8, 16_000
"""Documents of each split whose beginnings are compared, and bytes of them."""
_LEAST_OTHERS = 4
"""Training documents for each one that is compared with the rest of them."""
_ASCII = 127
_XZ = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 22}]


@dataclass(frozen=True)
class TextFacts:
    """The training text: its bytes, counted or estimated, and its bits per byte by bz2, None before it is read.

    `foreign` is the share of its bytes beyond ASCII. `unlike` has the least and the most bits of a split of held-out
    documents beside those of training documents, given the rest of the text. `token_bytes` is the ratio of its bytes
    per token to the usual ones of English text; `longest_test` the bytes of the longest test document, at most those of
    the longest file before the text is read, None if unknown.
    """

    train_bytes: float
    counted: bool
    bz2_bits: float | None
    token_bytes: float = 1.0
    longest_test: int | None = None
    foreign: float = 0.0
    unlike: tuple[float, float] = (1.0, 1.0)

    def bytes_per_token(self, vocabulary: int) -> float:
        """Return the bytes per token to expect with a vocabulary."""
        return self.token_bytes * bytes_per_token(vocabulary)


def facts(shards: Path, train_bytes: int) -> TextFacts:
    """Return the facts of a text from the folder of the stage `shard`; bz2 and BPE compress its first megabyte.

    The bits per byte of less than half a megabyte are those to expect of so much.
    """
    from homegrown.tokenizer import train

    parts: list[bytes] = []
    size = 0
    for text in _texts(shards / "train"):
        parts.append(text.encode()[: _SAMPLE_BYTES - size])
        size += len(parts[-1])
        if size >= _SAMPLE_BYTES:
            break
    sample = b"".join(parts)
    bits = 8 * len(bz2.compress(sample)) / max(1, size)
    usual = np.interp(np.log(max(1, size)), np.log(list(_BZ2_BITS)), list(_BZ2_BITS.values()))
    bits *= _BZ2_BITS[max(_BZ2_BITS)] / float(usual)
    ratio = 1.0
    if size >= _SAMPLE_BYTES // 2:  # of less text, a vocabulary is the text itself
        texts = [part.decode(errors="ignore") for part in parts]
        ratio = train.bytes_per_token(texts, _SAMPLE_VOCABULARY) / bytes_per_token(_SAMPLE_VOCABULARY)
    longest = max((len(text.encode()) for text in _texts(shards / "test")), default=None)
    return TextFacts(
        train_bytes,
        counted=True,
        bz2_bits=bits,
        token_bytes=ratio,
        longest_test=longest,
        foreign=float(np.mean(np.frombuffer(sample, np.uint8) > _ASCII)) if sample else 0.0,
        unlike=_unlike(parts, shards),
    )


def _unlike(train: list[bytes], shards: Path) -> tuple[float, float]:
    """Return the least and the most bits of validation and test beside those of some training documents.

    They are those that xz adds for their beginnings to the other training documents. A few documents that are held out
    can be unlike the rest, and then so is the loss on them.
    """
    compared = min(_COMPARED, len(train) // _LEAST_OTHERS)
    if not compared:
        return 1.0, 1.0
    every = len(train) // compared
    own, rest = train[::every][:compared], b"\n".join(one for i, one in enumerate(train) if i % every)
    alone = _xz(rest)

    def added(texts: list[bytes]) -> float:
        part = b"\n".join(text[:_BEGINNING] for text in texts)
        return (_xz(rest + part) - alone) / max(1, len(part))

    splits = [[text.encode() for text in islice(_texts(shards / split), _COMPARED)] for split in ("validation", "test")]
    usual, found = added(own), [added(texts) for texts in splits if texts]
    return (min(found) / usual, max(found) / usual) if found and usual else (1.0, 1.0)


def _xz(data: bytes) -> int:
    return len(lzma.compress(data, lzma.FORMAT_RAW, filters=_XZ))


def estimated(store: Store, recipe: Recipe) -> TextFacts:
    """Return the facts of a text that no run has read yet, from the size of its sources.

    Raises:
        UserError: the size is not known before ingest has read the sources.
    """
    text = text_of(store, recipe, recipe.tokenizer.vocabulary_size)
    if text.tokens is None:
        raise UserError("The size of the text is unknown before it is read; replace --dry-run by --until shard once.")
    size = text.tokens * bytes_per_token(recipe.tokenizer.vocabulary_size)
    return TextFacts(size, counted=False, bz2_bits=None, longest_test=longest_document(recipe))


def _texts(folder: Path) -> Iterator[str]:
    for path in parts_of(folder):
        for batch in pq.ParquetFile(opened(path)).iter_batches(256, columns=["text"]):
            yield from batch.column(0).to_pylist()
