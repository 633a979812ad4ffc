"""Paragraphs that many documents share, such as licenses and footers: found out of core, and cut but for one.

CCNet does so by lines (Wenzek et al. 2020, section 3.1), datatrove by sentences. Paragraphs are equal as documents are:
in lower case with white space folded.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from homegrown.config.recipe import ParagraphSettings
from homegrown.corpus.minhash import SHINGLE_WORDS, sketch
from homegrown.util.files import write_parquet
from homegrown.util.parallel import map_ordered

CUT = pa.schema(
    [
        ("id", pa.string()),  # of the document as ingested
        ("source", pa.string()),
        ("path", pa.string()),
        ("position", pa.int64()),
        ("start", pa.int64()),  # of the paragraph in the document, in characters
        ("characters", pa.int64()),
        ("kept_in", pa.string()),  # the document whose occurrence is kept
        ("text_start", pa.string()),
    ]
)
SEPARATORS = {"paragraph": "\n\n", "line": "\n"}
_SHOWN = 200  # characters in text_start
_BATCH = 4096  # rows whose texts are in memory at once
_NONE = np.empty((2, 0), np.uint32)  # permutations
_SCHEMA = pa.schema(
    [
        ("row", pa.uint32()),
        ("number", pa.uint32()),  # of the paragraph in its document, from 0
        ("high", pa.uint64()),
        ("low", pa.uint64()),
        ("document", pa.uint64()),  # half of the digest of the document: copies of it count once
    ]
)


@dataclass(frozen=True)
class _Hashing:
    documents: Path
    out: Path
    settings: ParagraphSettings


@dataclass(frozen=True)
class _Cutting:
    documents: Path
    out: Path
    account: Path
    cuts: pa.Table  # row, number, holder (its place), kept_in (its id); in ascending order
    separator: str


def cut(
    connection: duckdb.DuckDBPyConnection,
    out: Path,
    parts: list[Path],
    firsts: list[int],
    settings: ParagraphSettings,
    executor: Executor,
    advance: Callable[[], None],
) -> list[Path]:
    """Cut repeated paragraphs of the shards `parts`; return the shards that remain, those without cuts unchanged.

    A paragraph of at least `min_characters` that occurs in at least `min_documents` different documents stays in the
    first of them. Writes the table `cut` under `out` (see CUT), and shards with cuts under `out/remaining`, whose rows
    are those of `parts`: a document may be empty. Creates the table `emptied` in `connection`: `place`, and `holder`,
    the place of a document that has its first cut paragraph. `firsts` has the place of each shard's first row.
    """
    hashing = [_Hashing(part, out / "paragraphs" / part.name, settings) for part in parts]
    connection.execute(
        "CREATE TABLE paragraphs (place UBIGINT, number UINTEGER, high UBIGINT, low UBIGINT, document UBIGINT)"
    )
    for (job, first), _ in zip(
        zip(hashing, firsts, strict=True), map_ordered(executor, _write_hashes, hashing), strict=True
    ):
        connection.execute(
            'INSERT INTO paragraphs SELECT ? + "row", number, high, low, document FROM read_parquet(?)',
            [first, str(job.out)],
        )
        advance()
    connection.execute(
        """CREATE TABLE cuts AS
        WITH repeated AS (
            SELECT high, low, min((place << 32) | number) AS spot FROM paragraphs
            GROUP BY high, low HAVING count(DISTINCT document) >= ?
        )
        SELECT place, number, repeated.spot >> 32 AS holder FROM paragraphs JOIN repeated USING (high, low)
        WHERE (place << 32) | number <> spot""",
        [settings.min_documents],
    )
    connection.execute("DROP TABLE paragraphs")
    connection.execute("CREATE TABLE holders (place UBIGINT, id VARCHAR)")
    for part, first in zip(parts, firsts, strict=True):
        connection.execute(
            """INSERT INTO holders SELECT ? + file_row_number AS place, id FROM read_parquet(?, file_row_number = true)
            WHERE place IN (SELECT holder FROM cuts)""",
            [first, str(part)],
        )
    connection.execute("CREATE TABLE emptied (place UBIGINT, holder UBIGINT)")
    made: list[Path] = []
    jobs = _jobs(connection, out, parts, firsts, SEPARATORS[settings.unit])
    for part, first, (path, emptied) in zip(parts, firsts, map_ordered(executor, _write_cut, jobs), strict=True):
        made.append(path or part)
        for row, holder in emptied:
            connection.execute("INSERT INTO emptied VALUES (?, ?)", [first + row, holder])
    connection.execute("DROP TABLE cuts; DROP TABLE holders")
    return made


def _write_hashes(job: _Hashing) -> None:
    """Write the hashes of the paragraphs of a shard."""
    if job.out.exists():
        return
    batches, row = [], 0
    for batch in pq.ParquetFile(job.documents).iter_batches(_BATCH, columns=["text"]):
        texts = batch["text"]
        lists = pc.split_pattern(texts, SEPARATORS[job.settings.unit])
        rows = np.asarray(pc.list_parent_indices(lists)).astype(np.uint32)
        numbers = np.arange(len(rows)) - np.asarray(lists.offsets)[rows] + np.asarray(lists.offsets)[0]
        found = sketch(lists.flatten(), SHINGLE_WORDS, _NONE)
        documents = sketch(texts, SHINGLE_WORDS, _NONE).digests[:, 0]
        long = found.lengths >= job.settings.min_characters
        columns = [rows + row, numbers.astype(np.uint32), *found.digests.T, documents[rows]]
        batches.append(pa.record_batch([np.ascontiguousarray(column[long]) for column in columns], schema=_SCHEMA))
        row += len(texts)
    write_parquet(job.out, pa.Table.from_batches(batches, _SCHEMA))


def _jobs(
    connection: duckdb.DuckDBPyConnection, out: Path, parts: list[Path], firsts: list[int], separator: str
) -> Iterator[_Cutting]:
    for part, first in zip(parts, firsts, strict=True):
        last = first + pq.read_metadata(part).num_rows
        cuts = connection.sql(
            """SELECT (cuts.place - ?)::UINTEGER AS row, number, holder, holders.id AS kept_in
            FROM cuts JOIN holders ON holders.place = holder WHERE cuts.place >= ? AND cuts.place < ? ORDER BY ALL""",
            params=[first, first, last],
        ).to_arrow_table()
        yield _Cutting(part, out / "remaining" / part.name, out / "cut" / part.name, cuts, separator)


def _write_cut(job: _Cutting) -> tuple[Path | None, list[tuple[int, int]]]:
    """Write a shard without its cut paragraphs, and the account; return the path, None if nothing is cut.

    Also returns row and holder of each document that is empty now.
    """
    if not len(job.cuts):
        return None, []
    table = pq.read_table(job.documents)
    texts = table["text"].to_pylist()
    account: list[dict[str, str | int]] = []
    emptied: list[tuple[int, int]] = []
    for row, group in groupby(job.cuts.to_pylist(), key=lambda one: one["row"]):
        cuts = {one["number"]: one for one in group}
        origin = {name: table[name][row].as_py() for name in ("id", "source", "path", "position")}
        remaining, start = [], 0
        for number, paragraph in enumerate(texts[row].split(job.separator)):
            if number in cuts:
                shown = {"text_start": paragraph.strip()[:_SHOWN], "kept_in": cuts[number]["kept_in"]}
                account.append(origin | shown | {"start": start, "characters": len(paragraph)})
            else:
                remaining.append(paragraph)
            start += len(paragraph) + len(job.separator)
        texts[row] = job.separator.join(remaining).strip("\n")
        if not texts[row].strip():
            emptied.append((row, min(cuts.items())[1]["holder"]))
    place = table.column_names.index("text")
    write_parquet(job.account, pa.Table.from_pylist(account, CUT))
    write_parquet(job.out, table.set_column(place, table.schema.field("text"), pa.array(texts, pa.string())))
    return job.out, emptied
