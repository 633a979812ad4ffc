"""The dedup stage: documents without exact and near duplicates, and a table of what was dropped for which document."""

from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from homegrown.corpus.documents import row_count
from homegrown.corpus.duplicates import find_duplicates
from homegrown.corpus.minhash import permutations, sketch
from homegrown.corpus.spill import spilling
from homegrown.files import parquet_parts, write_parquet
from homegrown.outcome import Outcome
from homegrown.parallel import map_ordered
from homegrown.progress import Progress, silent
from homegrown.recipe import DedupSettings
from homegrown.seeds import derive

DROPPED = pa.schema(
    [
        ("id", pa.string()),
        ("duplicate_of", pa.string()),  # the document it duplicates
        ("kind", pa.string()),  # exact or near
        ("similarity", pa.float64()),  # estimated Jaccard of the two
        ("cluster", pa.string()),  # the document that is kept in the end
    ]
)
_SKETCH = [
    ("id", pa.string()),
    ("digest_high", pa.uint64()),
    ("digest_low", pa.uint64()),
    ("length", pa.int32()),
    ("words", pa.int32()),
]
_BATCH = 4096  # rows whose texts are in memory at once


@dataclass(frozen=True)
class _Sketching:
    documents: Path
    signatures: Path
    shingle_words: int
    permuted: NDArray[np.uint32]  # from minhash.permutations


@dataclass(frozen=True)
class _Keeping:
    documents: Path
    kept: Path
    dropped: NDArray[np.int64]


def dedup(
    out: Path,
    ingested: Path,
    settings: DedupSettings,
    *,
    seed: int,
    memory_gb: float,
    executor: Executor,
    progress: Progress = silent,
) -> Outcome:
    """Drop duplicates among `ingested/documents`; write `documents`, `dropped` and `signatures` under `out`.

    Exact duplicates have the same text once lower-cased and white space folded. Near duplicates agree in a band of
    their MinHash signatures (Broder 1997; words as in `homegrown.corpus.minhash`) and, compared whole, in at least
    `threshold` of their places; clusters are what such pairs connect. The longest document of a group stays, of equal
    ones the first by id. `signatures` has `id, digest_high, digest_low` (uint64), `length` (characters), `words` and
    `signature` (bands x rows little-endian uint32); it can be read by `datasketch` with scheme affine32 and the seed
    `derive(seed, "dedup") % 2**32`.
    """
    parts = parquet_parts(ingested / "documents")
    steps = 2 * len(parts) + settings.bands
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress(done, steps)

    permuted = permutations(settings.bands * settings.rows, derive(seed, "dedup"))
    sketching = [_Sketching(part, out / "signatures" / part.name, settings.shingle_words, permuted) for part in parts]
    for _ in map_ordered(executor, _write_signatures, sketching):
        advance()
    with spilling(out / "spill", memory_gb) as connection:
        find_duplicates(connection, out / "spill", [job.signatures for job in sketching], settings, advance)
        metrics = _metrics(connection)
        keeping = (
            _write_dropped(connection, part, first, out) for part, first in zip(parts, _firsts(parts), strict=True)
        )
        kept = 0
        for rows in map_ordered(executor, _write_kept, keeping):
            kept += rows
            advance()
    return Outcome(sum(row_count(part) for part in parts), kept, metrics=metrics)


def _write_signatures(job: _Sketching) -> None:
    if job.signatures.exists():
        return
    signature = pa.binary(4 * job.permuted.shape[1])
    schema = pa.schema([*_SKETCH, ("signature", signature)])
    batches = []
    for batch in pq.ParquetFile(job.documents).iter_batches(_BATCH, columns=["id", "text"]):
        digests, lengths, words, signatures = sketch(batch["text"], job.shingle_words, job.permuted)
        packed = pa.py_buffer(signatures.astype("<u4", copy=False))
        column = pa.FixedSizeBinaryArray.from_buffers(signature, len(batch), [None, packed])
        high, low = (np.ascontiguousarray(half) for half in digests.T)
        batches.append(pa.record_batch([batch["id"], high, low, lengths, words, column], schema=schema))
    write_parquet(job.signatures, pa.Table.from_batches(batches, schema))


def _write_dropped(connection: duckdb.DuckDBPyConnection, part: Path, first: int, out: Path) -> _Keeping:
    """Write the shard's part of the dropped table and say which of its rows they are."""
    last = first + row_count(part)
    query = "SELECT * FROM dropped WHERE place >= ? AND place < ? ORDER BY place"
    table = connection.sql(query, params=[first, last]).to_arrow_table()
    write_parquet(out / "dropped" / part.name, table.select(DROPPED.names).cast(DROPPED))
    return _Keeping(part, out / "documents" / part.name, table["place"].to_numpy().astype(np.int64) - first)


def _write_kept(job: _Keeping) -> int:
    """Write the shard without the dropped rows; return how many are left."""
    if not job.kept.exists():
        table = pq.read_table(job.documents)
        keep = np.ones(len(table), bool)
        keep[job.dropped] = False
        write_parquet(job.kept, table.filter(pa.array(keep)))
    return row_count(job.kept)


def _firsts(parts: list[Path]) -> list[int]:
    """Return the place of each shard's first row."""
    return list(accumulate((row_count(part) for part in parts), initial=0))[:-1]


def _metrics(connection: duckdb.DuckDBPyConnection) -> dict[str, int | float | str]:
    row = connection.sql(
        """SELECT count(*) FILTER (kind = 'exact'), count(*) FILTER (kind = 'near'), count(DISTINCT cluster),
            (SELECT coalesce(max(n), 0) FROM (SELECT count(*) + 1 AS n FROM dropped GROUP BY cluster))
        FROM dropped"""
    ).fetchall()[0]
    names = ("exact_duplicates", "near_duplicates", "clusters", "largest_cluster")
    return dict(zip(names, row, strict=True))
