"""Statistics of a tokenizer: count of each token, and bytes per token by source and by language."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import Tokenizer

from homegrown.corpus.languages import identify
from homegrown.tokenizer.encoding import Encoder
from homegrown.tokenizer.sample import text_bytes

_LANGUAGE_DOCUMENTS = 10_000
"""Documents whose language is identified (some seconds); as they are shuffled, the first are representative."""


@dataclass
class Totals:
    """Sums over documents."""

    documents: int = 0
    bytes: int = 0
    tokens: int = 0

    def add(self, size: int, tokens: int) -> None:
        """Add a document of `size` bytes."""
        self.documents += 1
        self.bytes += size
        self.tokens += tokens


TotalsByName = dict[str, Totals]


@dataclass
class Usage:
    """Counts over a sample of documents; `counts` is int64 [vocabulary]."""

    counts: npt.NDArray[np.int64]
    sources: TotalsByName = field(default_factory=lambda: defaultdict(Totals))
    languages: TotalsByName = field(default_factory=lambda: defaultdict(Totals))

    def by_token(self, tokenizer: Tokenizer, sizes: npt.NDArray[np.int32]) -> pa.Table:
        """Return the table (id, token, bytes, count), by id; incomplete characters show as U+FFFD."""
        ids = range(len(self.counts))
        return pa.table(
            {
                "id": pa.array(ids, pa.int32()),
                "token": [tokenizer.decode([number], skip_special_tokens=False) for number in ids],
                "bytes": sizes,
                "count": self.counts,
            }
        )


def by_name(column: str, groups: TotalsByName) -> pa.Table:
    """Return the table (`column`, documents, bytes, tokens, bytes_per_token), largest group first."""
    ordered = sorted(groups.items(), key=lambda item: (-item[1].bytes, item[0]))
    totals = [total for _, total in ordered]
    return pa.table(
        {
            column: pa.array([name for name, _ in ordered], pa.string()),
            "documents": pa.array([total.documents for total in totals], pa.int64()),
            "bytes": pa.array([total.bytes for total in totals], pa.int64()),
            "tokens": pa.array([total.tokens for total in totals], pa.int64()),
            "bytes_per_token": pa.array([total.bytes / max(1, total.tokens) for total in totals], pa.float64()),
        }
    )


def measure_usage(tokenizer: Tokenizer, sample: Iterable[pa.RecordBatch]) -> Usage:
    """Encode and count a sample with the columns `text` and `source`; languages of its first documents only."""
    encoder = Encoder(tokenizer)
    usage = Usage(np.zeros(tokenizer.get_vocab_size(), dtype=np.int64))
    unidentified = _LANGUAGE_DOCUMENTS
    for batch in sample:
        encoded = encoder.encode_all(batch["text"])
        usage.counts += np.bincount(np.concatenate(encoded), minlength=len(usage.counts))
        sizes, tokens = text_bytes(batch).tolist(), [len(ids) for ids in encoded]
        for source, size, count in zip(batch["source"].to_pylist(), sizes, tokens, strict=True):
            usage.sources[source].add(size, count)
        languages = identify(batch["text"].slice(0, unidentified), []).codes
        for language, size, count in zip(languages, sizes, tokens, strict=False):
            usage.languages[language].add(size, count)
        unidentified -= len(languages)
    return usage
