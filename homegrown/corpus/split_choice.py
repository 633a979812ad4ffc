"""The split of a document: a seeded hash of its id decides, independent of the rest of the corpus."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from homegrown.config.corpus import ShardSettings
from homegrown.corpus.documents import row_counts
from homegrown.util.elsewhere import opened

SPLITS = ("train", "validation", "test")
_HASH_BITS = 64
_SURE = 50
"""Expected documents with which a split is practically never empty: once in exp(50) corpora."""


def hashes(ids: pa.Array, seed: int) -> list[tuple[int, int]]:
    """Return two 64-bit numbers for each id (XXH3, 128 bits): one for its split, one for its place in it."""
    every = (xxhash.xxh3_128_intdigest(key, seed) for key in ids.cast(pa.binary()).to_pylist())
    return [divmod(value, 2**_HASH_BITS) for value in every]


@dataclass(frozen=True)
class Bounds:
    """Hashes below `test` are for test, others below `validation` for validation, the rest for training."""

    test: int
    validation: int

    def split(self, chosen_by: int) -> int:
        """Return the index in `SPLITS` of a document's split."""
        return 2 if chosen_by < self.test else 1 if chosen_by < self.validation else 0


def bounds(inputs: Sequence[Path], settings: ShardSettings, seed: int) -> Bounds:
    """Return the bounds of the splits of these documents: by their shares, with at least one document each.

    A few files may be too few documents for the shares; then those with the nearest hashes are held out. Two documents
    or fewer cannot be split.
    """
    test = int(settings.test_share * 2**_HASH_BITS)
    validation = test + int(settings.validation_share * 2**_HASH_BITS)
    documents = sum(row_counts(inputs))
    if documents < 3 or documents * min(settings.test_share, settings.validation_share) >= _SURE:
        return Bounds(test, validation)
    test = max(test, min(_chosen_by(inputs, seed)) + 1)
    rest = heapq.nsmallest(2, (value for value in _chosen_by(inputs, seed) if value >= test))
    return Bounds(test, max(validation, rest[0] + 1) if len(rest) > 1 else validation)


def _chosen_by(inputs: Sequence[Path], seed: int) -> Iterator[int]:
    """Yield the number that chooses the split of each document."""
    for path in inputs:
        for batch in pq.ParquetFile(opened(path)).iter_batches(columns=["id"]):
            yield from (value for value, _ in hashes(batch["id"], seed))
