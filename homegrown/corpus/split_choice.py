"""Which split a document belongs to: a seeded hash of its id decides, whatever else is in the corpus."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from homegrown.config.recipe import ShardSettings

SPLITS = ("train", "validation", "test")
_HASH_BITS = 64
_SURE = 50
"""Documents expected in a split from which it is never empty: that happens once in exp(50) corpora."""


def hashes(ids: pa.Array, seed: int) -> list[tuple[int, int]]:
    """Return two numbers of 64 bits for each id (XXH3, 128 bits): what chooses its split, and its place in it."""
    every = (xxhash.xxh3_128_intdigest(key, seed) for key in ids.cast(pa.binary()).to_pylist())
    return [divmod(value, 2**_HASH_BITS) for value in every]


@dataclass(frozen=True)
class Bounds:
    """A document is for test below `test`, for validation from there to below `validation`, and else for training."""

    test: int
    validation: int

    def split(self, chosen_by: int) -> int:
        """Return the number, in `SPLITS`, of a document's split."""
        return 2 if chosen_by < self.test else 1 if chosen_by < self.validation else 0


def bounds(inputs: Sequence[Path], settings: ShardSettings, seed: int) -> Bounds:
    """Return where the splits of these documents end: by their shares, with one document at least for each.

    A few files of one's own are fewer documents than the shares ask for; then the documents that come nearest are held
    out. Two documents or fewer cannot be split.
    """
    test = int(settings.test_share * 2**_HASH_BITS)
    validation = test + int(settings.validation_share * 2**_HASH_BITS)
    files = [pq.ParquetFile(path) for path in inputs]
    documents = sum(file.metadata.num_rows for file in files)
    if documents < 3 or documents * min(settings.test_share, settings.validation_share) >= _SURE:
        return Bounds(test, validation)
    columns = (file.read(["id"])["id"].combine_chunks() for file in files)
    chosen_by = sorted(value for value, _ in chain.from_iterable(hashes(ids, seed) for ids in columns))
    test = max(test, chosen_by[0] + 1)
    rest = [value for value in chosen_by if value >= test]
    return Bounds(test, max(validation, rest[0] + 1) if len(rest) > 1 else validation)
