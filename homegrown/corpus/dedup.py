"""The dedup stage: documents without exact and near duplicates, and a table of the dropped ones."""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from homegrown.config.recipe import DedupSettings
from homegrown.corpus.documents import row_count
from homegrown.corpus.duplicates import Part, find_duplicates
from homegrown.corpus.lsh import banding
from homegrown.corpus.minhash import SHINGLE_WORDS, Sets, permutations, shingle_sets, sketch
from homegrown.corpus.paragraphs import cut
from homegrown.util.files import parquet_parts, replacing, write_parquet
from homegrown.util.parallel import map_ordered
from homegrown.util.progress import Outcome, Progress, silent
from homegrown.util.seeds import derive


@contextmanager
def spilling(folder: Path, memory_gb: float) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection to an empty database in `folder`, cleared of a killed run's files; remove it afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    connection = duckdb.connect(str(folder / "spill.duckdb"))
    try:
        connection.execute(f"SET memory_limit = '{int(memory_gb * 1000)}MB'")
        connection.execute(f"SET temp_directory = '{str(folder / 'temporary').replace(chr(39), chr(39) * 2)}'")
        yield connection
    finally:
        connection.close()
        shutil.rmtree(folder)


DROPPED = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("path", pa.string()),
        ("position", pa.int64()),  # identifies the row with source and path: repeated texts of a file share an id
        ("duplicate_of", pa.string()),  # the document that it duplicates
        ("kind", pa.string()),  # exact, near, or paragraphs: all of its paragraphs are in others
        ("similarity", pa.float64()),  # Jaccard of the two: true, or estimated from signatures
        ("cluster", pa.string()),  # the kept document of the cluster
    ]
)
_LARGEST = 1000  # clusters in clusters.parquet
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
    remaining: Path  # the same documents without repeated paragraphs; `documents` if nothing is cut
    part: Part
    permuted: NDArray[np.uint32]  # from minhash.permutations
    quality: bool


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
    """Drop duplicates among `ingested/documents`; write `documents`, `dropped`, `clusters.parquet` and `signatures`.

    With `paragraphs`, paragraphs that many documents share are cut first (`homegrown.corpus.paragraphs`); `cut` has
    each, and a document of which nothing remains is dropped. Exact duplicates are so as ingested.

    Exact duplicates are equal in lower case with white space folded. Near duplicates agree in a band of their MinHash
    signatures (Broder 1997; words as in `homegrown.corpus.minhash`) and have a Jaccard similarity of at least
    `threshold`, of their sets of shingles or as estimated from signatures. Such pairs connect clusters, of which
    `linkage` keeps one document, or as many as leave every dropped one similar to a kept one. `clusters.parquet` has
    the 1000 largest, each with five of its documents. `keep` selects the kept document:

    - longest: the longest document, of equal ones the first by id;
    - first: the first in the order of the sources;
    - best_quality: the one with the highest product of the share of letters and the share of distinct shingles, then
      the longest. Rae et al. 2021 judge by letters and by duplicate n-grams.

    `signatures` has `id, digest_high, digest_low` (uint64), `length` (characters), `words`, `signature` (bands x rows
    little-endian uint32) and, for best_quality, `quality`. datasketch reads a signature with scheme affine32 and the
    seed `derive(seed, "dedup") % 2**32`. `id` depends on a text and its file, not on its position: repeated rows of a
    file share an id, at most one of them is kept, and `dropped` identifies the others by position.
    """
    parts = parquet_parts(ingested / "documents")
    bands, rows = effective_banding(settings)
    steps = (2 if settings.paragraphs is None else 3) * len(parts) + bands
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress(done, steps)

    permuted = permutations(bands * rows, derive(seed, "dedup"))
    sets = out / "shingles" if settings.verification == "jaccard" else None
    firsts = _firsts(parts)
    with spilling(out / "spill", memory_gb) as connection:
        remaining, cuts = parts, dict[str, int | float | str]()
        if settings.paragraphs is not None:
            remaining = cut(connection, out, parts, firsts, settings.paragraphs, executor, advance)
        sketching = [
            _Sketching(
                path,
                rest,
                Part(out / "signatures" / path.name, sets / f"{path.stem}.arrow" if sets else None),
                permuted,
                settings.keep == "best_quality",
            )
            for path, rest in zip(parts, remaining, strict=True)
        ]
        for _ in map_ordered(executor, _write_sketches, sketching):
            advance()
        find_duplicates(connection, out / "spill", [job.part for job in sketching], settings, bands, advance)
        if settings.paragraphs is not None:
            cuts |= {"emptied": _drop_emptied(connection)} | _cut_metrics(out / "cut")
        metrics = _metrics(connection) | cuts
        write_parquet(out / "clusters.parquet", _clusters(connection))
        keeping = (
            _write_dropped(connection, part, rest, first, out)
            for part, rest, first in zip(parts, remaining, firsts, strict=True)
        )
        kept = 0
        for count in map_ordered(executor, _write_kept, keeping):
            kept += count
            advance()
    for spent in (out / "shingles", out / "paragraphs", out / "remaining"):
        shutil.rmtree(spent, ignore_errors=True)
    return Outcome(sum(row_count(part) for part in parts), kept, metrics=metrics | {"bands": bands, "rows": rows})


def effective_banding(settings: DedupSettings) -> tuple[int, int]:
    """Return bands and rows: as set, or chosen for the similarity `bands_for`."""
    if settings.bands_for is None:
        return settings.bands, settings.rows
    return banding(settings.bands_for, settings.bands * settings.rows)


def _write_sketches(job: _Sketching) -> None:
    sketches, sets = job.part
    if sketches.exists() and (sets is None or sets.exists()):
        return
    signature = pa.binary(4 * job.permuted.shape[1])
    schema = pa.schema([*_SKETCH, *[("quality", pa.float64())] * job.quality, ("signature", signature)])
    batches = []
    with _set_writer(sets) as write_sets:
        for batch, original in _batches(job):
            digests, lengths, words, signatures = sketch(batch["text"], SHINGLE_WORDS, job.permuted)
            if original is not None:  # exact duplicates are so with all of their paragraphs
                digests = sketch(original, SHINGLE_WORDS, job.permuted[:, :0]).digests
            packed = pa.py_buffer(signatures.astype("<u4", copy=False))
            column = pa.FixedSizeBinaryArray.from_buffers(signature, len(batch), [None, packed])
            high, low = (np.ascontiguousarray(half) for half in digests.T)
            columns = [batch["id"], high, low, lengths, words]
            if sets or job.quality:
                shingles = shingle_sets(batch["text"], SHINGLE_WORDS)
                write_sets(shingles)
                columns += [shingles.letters * shingles.distinct] * job.quality
            batches.append(pa.record_batch([*columns, column], schema=schema))
    write_parquet(sketches, pa.Table.from_batches(batches, schema))


def _batches(job: _Sketching) -> Iterator[tuple[pa.RecordBatch, pa.StringArray | None]]:
    """Yield id and text of documents, and the text before paragraphs were cut from the shard, if they were."""
    batches = pq.ParquetFile(job.remaining).iter_batches(_BATCH, columns=["id", "text"])
    if job.remaining == job.documents:
        yield from ((batch, None) for batch in batches)
        return
    original = pq.ParquetFile(job.documents).iter_batches(_BATCH, columns=["text"])
    yield from ((batch, before["text"]) for batch, before in zip(batches, original, strict=True))


@contextmanager
def _set_writer(path: Path | None) -> Iterator[Callable[[Sets], None]]:
    """Yield a function that writes the shingles of batches of texts to an Arrow file, if there is one."""
    if path is None:
        yield lambda sets: None
        return
    schema = pa.schema([("shingles", pa.list_(pa.uint32()))])
    with replacing(path, scratch=True) as temporary, pa.ipc.new_file(temporary, schema) as writer:

        def write(sets: Sets) -> None:
            lists = pa.ListArray.from_arrays(pa.array(sets.starts.astype(np.int32)), pa.array(sets.shingles))
            writer.write_batch(pa.record_batch([lists], schema=schema))

        yield write


def _write_dropped(connection: duckdb.DuckDBPyConnection, part: Path, rest: Path, first: int, out: Path) -> _Keeping:
    """Write the shard's part of the dropped table; return the job that writes the kept rows."""
    last = first + row_count(part)
    query = "SELECT * FROM dropped WHERE place >= ? AND place < ? ORDER BY place"
    table = connection.sql(query, params=[first, last]).to_arrow_table()
    rows = table["place"].to_numpy().astype(np.int64) - first
    origins = pq.read_table(part, columns=["source", "path", "position"]).take(pa.array(rows))
    for name in origins.column_names:
        table = table.append_column(name, origins[name])
    write_parquet(out / "dropped" / part.name, table.select(DROPPED.names).cast(DROPPED))
    return _Keeping(rest, out / "documents" / part.name, rows)


def _write_kept(job: _Keeping) -> int:
    """Write the shard without the dropped rows; return the number of kept rows."""
    if not job.kept.exists():
        table = pq.read_table(job.documents)
        keep = np.ones(len(table), bool)
        keep[job.dropped] = False
        write_parquet(job.kept, table.filter(pa.array(keep)))
    return row_count(job.kept)


def _drop_emptied(connection: duckdb.DuckDBPyConnection) -> int:
    """Add documents without a remaining paragraph to `dropped`, in the cluster of one that has it; return how many."""
    connection.execute(
        """CREATE TABLE added AS
        SELECT emptied.place, own.id, holding.id AS duplicate_of, 'paragraphs' AS kind, 1.0 AS similarity,
            coalesce(dropped.cluster, holding.id) AS cluster
        FROM emptied
        JOIN documents own ON own.place = emptied.place
        JOIN documents holding ON holding.place = holder
        LEFT JOIN dropped ON dropped.place = holder
        WHERE emptied.place NOT IN (SELECT place FROM dropped)"""
    )
    connection.execute("UPDATE dropped SET cluster = added.cluster FROM added WHERE dropped.cluster = added.id")
    connection.execute("INSERT INTO dropped SELECT * FROM added")
    return int(connection.table("added").count("*").fetchall()[0][0])


def _cut_metrics(account: Path) -> dict[str, int | float | str]:
    """Return the numbers of cut paragraphs and characters."""
    sizes = [pc.sum(pq.read_table(part, columns=["characters"])["characters"]) for part in parquet_parts(account)]
    count = sum(row_count(part) for part in parquet_parts(account))
    return {"cut_paragraphs": count, "cut_characters": sum(size.as_py() or 0 for size in sizes)}


def _clusters(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """Return the largest clusters: kept id, number of documents, lowest similarity, up to five ids."""
    return connection.sql(
        f"""SELECT cluster, count(*) + 1 AS documents, min(similarity) AS least_similarity,
            list(id ORDER BY id)[:5] AS examples
        FROM dropped GROUP BY cluster ORDER BY documents DESC, cluster LIMIT {_LARGEST}"""
    ).to_arrow_table()


def _firsts(parts: list[Path]) -> list[int]:
    """Return the place of the first row of each shard."""
    return list(accumulate((row_count(part) for part in parts), initial=0))[:-1]


def _metrics(connection: duckdb.DuckDBPyConnection) -> dict[str, int | float | str]:
    row = connection.sql(
        """SELECT count(*) FILTER (kind = 'exact'), count(*) FILTER (kind = 'near'), count(DISTINCT cluster),
            (SELECT coalesce(max(n), 0) FROM (SELECT count(*) + 1 AS n FROM dropped GROUP BY cluster))
        FROM dropped"""
    ).fetchall()[0]
    names = ("exact_duplicates", "near_duplicates", "clusters", "largest_cluster")
    return dict(zip(names, row, strict=True))
