"""The dedup stage: documents without exact and near duplicates, and a table of the dropped ones."""

import shutil
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from homegrown.config.corpus import DedupSettings
from homegrown.corpus.documents import row_count, row_counts
from homegrown.corpus.duplicates import Index, Shards, find_duplicates, partitions, read_drops, spilling
from homegrown.corpus.lsh import banding
from homegrown.corpus.minhash import SHINGLE_WORDS, permutations, sketch, sketch_with_sets
from homegrown.corpus.paragraphs import cut
from homegrown.corpus.sketched import Sketched, sketched, written
from homegrown.util.elsewhere import parts_of
from homegrown.util.files import replacing, write_parquet
from homegrown.util.parallel import map_ordered
from homegrown.util.progress import Outcome, Progress, silent
from homegrown.util.seeds import derive

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
_EMPTIED = pa.schema([("place", pa.uint64()), ("holder", pa.uint64())])
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
    table: Path
    files: Sketched
    permuted: NDArray[np.uint32]  # from minhash.permutations
    quality: bool


@dataclass(frozen=True)
class _Listing:
    """List all dropped documents in the order of places, and the largest clusters."""

    index: Index
    drops: tuple[Path, ...]
    emptied: Path | None
    spill: Path
    memory_gb: float
    clusters: Path
    listed: Path


@dataclass(frozen=True)
class _Keeping:
    documents: Path
    remaining: Path
    first: int  # place of the first row
    listed: Path
    dropped: Path
    kept: Path


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
    parts = parts_of(ingested / "documents")
    bands, rows = effective_banding(settings)
    firsts = tuple(accumulate(row_counts(parts), initial=0))
    scratch = out / "exchange"
    steps = (3 if settings.paragraphs is None else 4) * len(parts) + 2 * partitions(firsts[-1])
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress(done, steps)

    permuted = permutations(bands * rows, derive(seed, "dedup"))
    remaining, emptied, cuts = parts, None, dict[str, int | float | str]()
    if settings.paragraphs is not None:
        found = cut(out, parts, firsts[:-1], settings.paragraphs, memory_gb, executor, advance)
        remaining, emptied = found.parts, scratch / "emptied.parquet"
        columns = [[row[number] for row in found.emptied] for number in range(2)]
        write_parquet(emptied, pa.table(columns, schema=_EMPTIED))
        cuts = {"cut_paragraphs": found.paragraphs, "cut_characters": found.characters}
    sketching = [
        _Sketching(
            path,
            rest,
            out / "signatures" / path.name,
            sketched(scratch / "sketches", path.stem, settings.verification == "jaccard"),
            permuted,
            settings.keep == "best_quality",
        )
        for path, rest in zip(parts, remaining, strict=True)
    ]
    for _ in map_ordered(executor, _write_sketches, sketching):
        advance()
    shards = Shards(
        tuple(job.table for job in sketching), tuple(job.files for job in sketching), firsts[:-1], bands * rows
    )
    index, drops = find_duplicates(scratch, shards, firsts[-1], settings, bands, memory_gb, executor, advance)
    listing = _Listing(
        *(index, drops, emptied, out / "spill", memory_gb, out / "clusters.parquet", scratch / "listed.parquet")
    )
    metrics = executor.submit(_list, listing).result() | cuts
    keeping = [
        _Keeping(part, rest, first, listing.listed, out / "dropped" / part.name, out / "documents" / part.name)
        for part, rest, first in zip(parts, remaining, firsts, strict=False)
    ]
    kept = 0
    for count in map_ordered(executor, _write_kept, keeping):
        kept += count
        advance()
    for spent in (scratch, out / "paragraphs", out / "remaining"):
        shutil.rmtree(spent, ignore_errors=True)
    return Outcome(firsts[-1], kept, metrics=metrics | {"bands": bands, "rows": rows})


def effective_banding(settings: DedupSettings) -> tuple[int, int]:
    """Return bands and rows: as set, or chosen for the similarity `bands_for`."""
    if settings.bands_for is None:
        return settings.bands, settings.rows
    return banding(settings.bands_for, settings.bands * settings.rows)


def _write_sketches(job: _Sketching) -> None:
    if job.table.exists() and job.files.complete:
        return
    signature = pa.binary(4 * job.permuted.shape[1])
    schema = pa.schema([*_SKETCH, *[("quality", pa.float64())] * job.quality, ("signature", signature)])
    batches = []
    with written(job.files) as writer:
        for batch, original in _batches(job):
            sets = None
            if job.files.shingles or job.quality:
                sketches, sets = sketch_with_sets(batch["text"], SHINGLE_WORDS, job.permuted)
            else:
                sketches = sketch(batch["text"], SHINGLE_WORDS, job.permuted)
            digests, lengths, words, signatures = sketches
            if original is not None:  # exact duplicates are so with all of their paragraphs
                digests = sketch(original, SHINGLE_WORDS, job.permuted[:, :0]).digests
            packed = pa.py_buffer(signatures.astype("<u4", copy=False))
            column = pa.FixedSizeBinaryArray.from_buffers(signature, len(batch), [None, packed])
            high, low = (np.ascontiguousarray(half) for half in digests.T)
            columns = [batch["id"], high, low, lengths, words]
            if sets and job.quality:
                columns.append(sets.letters * sets.distinct)
            writer.add(signatures, sets)
            batches.append(pa.record_batch([*columns, column], schema=schema))
    write_parquet(job.table, pa.Table.from_batches(batches, schema))


def _batches(job: _Sketching) -> Iterator[tuple[pa.RecordBatch, pa.StringArray | None]]:
    """Yield id and text of documents, and the text before paragraphs were cut from the shard, if they were."""
    batches = pq.ParquetFile(job.remaining).iter_batches(_BATCH, columns=["id", "text"])
    if job.remaining == job.documents:
        yield from ((batch, None) for batch in batches)
        return
    original = pq.ParquetFile(job.documents).iter_batches(_BATCH, columns=["text"])
    yield from ((batch, before["text"]) for batch, before in zip(batches, original, strict=True))


def _list(job: _Listing) -> dict[str, int | float | str]:
    """Write all dropped documents in the order of places, and the largest clusters; return the metrics."""
    with spilling(job.spill, job.memory_gb) as connection:
        if not job.listed.exists():
            _join_drops(connection, job)
        connection.execute(f"CREATE OR REPLACE VIEW dropped AS SELECT * FROM read_parquet({_quoted(job.listed)})")
        if not job.clusters.exists():
            write_parquet(job.clusters, _clusters(connection))
        return _metrics(connection) | ({} if job.emptied is None else {"emptied": _emptied(connection)})


def _join_drops(connection: duckdb.DuckDBPyConnection, job: _Listing) -> None:
    connection.register("drops", read_drops(job.drops))
    connection.execute("CREATE TABLE near AS SELECT * FROM drops")
    connection.unregister("drops")
    connection.execute(f"CREATE VIEW documents AS SELECT * FROM read_parquet({_quoted(job.index.documents)})")
    # The kept document of an exact group may be a near-duplicate itself.
    connection.execute(
        """CREATE TABLE dropped AS
        SELECT document.place, document.id, original.id AS duplicate_of, kind, similarity, kept.id AS cluster
        FROM (
            SELECT node, original, 'near' AS kind, similarity, kept FROM near
            UNION ALL
            SELECT exact.node, keeper, 'exact', 1.0, coalesce(near.kept, keeper)
            FROM read_parquet(EXACT) exact LEFT JOIN near ON near.node = keeper
        ) found
        JOIN documents document ON document.node = found.node
        JOIN documents original ON original.node = found.original
        JOIN documents kept ON kept.node = found.kept""".replace("EXACT", _quoted(job.index.exact))
    )
    if job.emptied is not None:
        _drop_emptied(connection, job.emptied)
    with replacing(job.listed, scratch=True) as temporary:
        connection.execute(f"COPY (FROM dropped ORDER BY place) TO {_quoted(temporary)} (FORMAT parquet)")
    connection.execute("DROP TABLE dropped")


def _quoted(path: Path) -> str:
    """Return a path as a string of SQL."""
    return "'" + str(path).replace("'", "''") + "'"


def _write_kept(job: _Keeping) -> int:
    """Write a shard's part of the dropped table, and the shard without it; return the number of kept rows."""
    if not (job.kept.exists() and job.dropped.exists()):
        documents = pq.read_table(job.remaining)
        last = job.first + len(documents)
        table = pq.read_table(job.listed, filters=[("place", ">=", job.first), ("place", "<", last)])
        rows = table["place"].to_numpy().astype(np.int64) - job.first
        origins = pq.read_table(job.documents, columns=["source", "path", "position"]).take(pa.array(rows))
        for name in origins.column_names:
            table = table.append_column(name, origins[name])
        write_parquet(job.dropped, table.select(DROPPED.names).cast(DROPPED))
        keep = np.ones(len(documents), bool)
        keep[rows] = False
        write_parquet(job.kept, documents.filter(pa.array(keep)))
    return row_count(job.kept)


def _drop_emptied(connection: duckdb.DuckDBPyConnection, emptied: Path) -> None:
    """Add documents without a remaining paragraph to `dropped`, in the cluster of one that has it."""
    connection.execute(
        f"""CREATE TABLE added AS
        SELECT emptied.place, own.id, holding.id AS duplicate_of, 'paragraphs' AS kind, 1.0 AS similarity,
            coalesce(dropped.cluster, holding.id) AS cluster
        FROM read_parquet({_quoted(emptied)}) emptied
        JOIN documents own ON own.place = emptied.place
        JOIN documents holding ON holding.place = holder
        LEFT JOIN dropped ON dropped.place = holder
        WHERE emptied.place NOT IN (SELECT place FROM dropped)"""
    )
    connection.execute("UPDATE dropped SET cluster = added.cluster FROM added WHERE dropped.cluster = added.id")
    connection.execute("INSERT INTO dropped SELECT * FROM added")


def _emptied(connection: duckdb.DuckDBPyConnection) -> int:
    return int(connection.sql("SELECT count(*) FROM dropped WHERE kind = 'paragraphs'").fetchall()[0][0])


def _clusters(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """Return the largest clusters: kept id, number of documents, lowest similarity, up to five ids."""
    return connection.sql(
        f"""WITH largest AS (
            SELECT cluster, count(*) + 1 AS documents, min(similarity) AS least_similarity
            FROM dropped GROUP BY cluster ORDER BY documents DESC, cluster LIMIT {_LARGEST}
        )
        SELECT cluster, documents, least_similarity, list(id ORDER BY id)[:5] AS examples
        FROM largest JOIN dropped USING (cluster)
        GROUP BY cluster, documents, least_similarity ORDER BY documents DESC, cluster"""
    ).to_arrow_table()


def _metrics(connection: duckdb.DuckDBPyConnection) -> dict[str, int | float | str]:
    row = connection.sql(
        """SELECT count(*) FILTER (kind = 'exact'), count(*) FILTER (kind = 'near'), count(DISTINCT cluster),
            (SELECT coalesce(max(n), 0) FROM (SELECT count(*) + 1 AS n FROM dropped GROUP BY cluster))
        FROM dropped"""
    ).fetchall()[0]
    names = ("exact_duplicates", "near_duplicates", "clusters", "largest_cluster")
    return dict(zip(names, row, strict=True))
