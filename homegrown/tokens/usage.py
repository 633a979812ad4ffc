"""How a tokenizer uses its vocabulary: how often each token occurs, and how many bytes a token is worth by source."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import Tokenizer

from homegrown.tokens.encoding import Encoder
from homegrown.tokens.shards import text_bytes


@dataclass
class _Totals:
    documents: int = 0
    bytes: int = 0
    tokens: int = 0


@dataclass
class Usage:
    """Counts over a sample of documents; `counts` is int64 [vocabulary]."""

    counts: npt.NDArray[np.int64]
    sources: dict[str, _Totals] = field(default_factory=lambda: defaultdict(_Totals))

    def by_source(self) -> pa.Table:
        """Return the table (source, documents, bytes, tokens, bytes_per_token), by name."""
        rows = [
            {
                "source": source,
                "documents": totals.documents,
                "bytes": totals.bytes,
                "tokens": totals.tokens,
                "bytes_per_token": totals.bytes / max(1, totals.tokens),
            }
            for source, totals in sorted(self.sources.items())
        ]
        return pa.Table.from_pylist(rows)

    def by_token(self, tokenizer: Tokenizer, sizes: npt.NDArray[np.int32]) -> pa.Table:
        """Return the table (id, token, bytes, count), by id; bytes that are no whole character show as U+FFFD."""
        ids = range(len(self.counts))
        return pa.table(
            {
                "id": pa.array(ids, pa.int32()),
                "token": [tokenizer.decode([number], skip_special_tokens=False) for number in ids],
                "bytes": sizes,
                "count": self.counts,
            }
        )


def measure_usage(tokenizer: Tokenizer, sample: Iterable[pa.RecordBatch]) -> Usage:
    """Encode a sample with the columns `text` and `source`, and count."""
    encoder = Encoder(tokenizer)
    usage = Usage(np.zeros(tokenizer.get_vocab_size(), dtype=np.int64))
    for batch in sample:
        encoded = [encoder.encode(text) for text in batch["text"].to_pylist()]
        usage.counts += np.bincount(np.concatenate(encoded), minlength=len(usage.counts))
        for source, size, ids in zip(batch["source"].to_pylist(), text_bytes(batch).tolist(), encoded, strict=True):
            totals = usage.sources[source]
            totals.documents += 1
            totals.bytes += size
            totals.tokens += len(ids)
    return usage
