"""Reading document shards in batches of bounded size."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from homegrown.util.elsewhere import opened
from homegrown.util.errors import UserError

_BATCH_ROWS = 1024


def read_shard(shard: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a Parquet shard in non-empty batches of at most 1,024.

    Raises:
        UserError: the file is not Parquet, or a column is missing.
    """
    try:
        with pq.ParquetFile(opened(shard)) as file:
            if missing := [column for column in columns if column not in file.schema_arrow.names]:
                raise UserError(f"{shard} has no column {missing[0]!r}; run the stage `shard` again.")
            yield from (batch for batch in file.iter_batches(_BATCH_ROWS, columns=columns) if batch.num_rows)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{shard} cannot be read ({error}); run the stage `shard` again.") from error


def read_sample(shards: list[Path], columns: list[str], limit: int) -> Iterator[pa.RecordBatch]:
    """Yield rows until their `text` reaches `limit` bytes; only the last row may exceed it."""
    taken = 0
    for shard in shards:
        for batch in read_shard(shard, columns):
            ends = taken + np.cumsum(text_bytes(batch))
            rows = batch.slice(0, int(np.searchsorted(ends, limit)) + 1)
            yield rows
            taken = int(ends[len(rows) - 1])
            if taken >= limit:
                return


def text_bytes(batch: pa.RecordBatch) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the bytes of each row's text as UTF-8, int64 [rows]."""
    sizes: np.ndarray[tuple[int], np.dtype[np.int64]] = pc.binary_length(batch["text"]).to_numpy().astype(np.int64)
    return sizes
