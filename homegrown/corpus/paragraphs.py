"""Paragraphs that many documents share, such as licenses and footers: found out of core, and cut but for one.

CCNet does so by lines (Wenzek et al. 2020, section 3.1), datatrove by sentences. Paragraphs are equal as documents are:
in lower case with white space folded.
"""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from homegrown.config.corpus import ParagraphSettings
from homegrown.corpus.documents import row_count
from homegrown.corpus.duplicates import spilling
from homegrown.corpus.minhash import SHINGLE_WORDS, sketch
from homegrown.util.files import replacing, write_parquet
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
    hashes: Path
    ids: Path
    settings: ParagraphSettings


@dataclass(frozen=True)
class _Finding:
    """Find the paragraphs to cut among the hashes of all shards; `firsts` has the place of each shard's first row."""

    hashes: tuple[Path, ...]
    ids: tuple[Path, ...]
    firsts: tuple[int, ...]
    min_documents: int
    spill: Path
    memory_gb: float
    cuts: Path  # place, number, holder (its place), kept_in (its id); in ascending order


@dataclass(frozen=True)
class _Cutting:
    documents: Path
    first: int
    cuts: Path
    out: Path
    account: Path
    separator: str


@dataclass(frozen=True)
class _Cut:
    """What was cut of a shard; row and holder of each document that is empty now."""

    paragraphs: int
    characters: int
    emptied: list[tuple[int, int]]


class Remaining(NamedTuple):
    """The shards that remain, the place and the holder of each empty document, and what was cut."""

    parts: list[Path]
    emptied: list[tuple[int, int]]
    paragraphs: int
    characters: int


def cut(
    out: Path,
    parts: list[Path],
    firsts: tuple[int, ...],
    settings: ParagraphSettings,
    memory_gb: float,
    executor: Executor,
    advance: Callable[[], None],
) -> Remaining:
    """Cut repeated paragraphs of the shards `parts`; return the shards that remain, those without cuts unchanged.

    A paragraph of at least `min_characters` that occurs in at least `min_documents` different documents stays in the
    first of them. Writes the table `cut` under `out` (see CUT), and shards with cuts under `out/remaining`, whose rows
    are those of `parts`: a document may be empty. Its holder is the place of a document that has its first cut
    paragraph. `firsts` has the place of each shard's first row.
    """
    scratch = out / "paragraphs"
    hashing = [_Hashing(part, scratch / "hashes" / part.name, scratch / "ids" / part.name, settings) for part in parts]
    for _ in map_ordered(executor, _write_hashes, hashing):
        advance()
    hashes, ids = tuple(job.hashes for job in hashing), tuple(job.ids for job in hashing)
    cuts = scratch / "cuts.parquet"
    finding = _Finding(hashes, ids, firsts, settings.min_documents, out / "spill", memory_gb, cuts)
    executor.submit(_write_cuts, finding).result()
    cutting = [
        _Cutting(part, first, cuts, out / "remaining" / part.name, out / "cut" / part.name, SEPARATORS[settings.unit])
        for part, first in zip(parts, firsts, strict=True)
    ]
    found = Remaining([], [], 0, 0)
    for job, own in zip(cutting, map_ordered(executor, _cut, cutting), strict=True):
        found.parts.append(job.out if own.paragraphs else job.documents)
        found.emptied.extend((job.first + row, holder) for row, holder in own.emptied)
        found = found._replace(
            paragraphs=found.paragraphs + own.paragraphs, characters=found.characters + own.characters
        )
    return found


def _write_hashes(job: _Hashing) -> None:
    """Write the hashes of the paragraphs of a shard, and the ids of its documents."""
    if job.hashes.exists():
        return
    write_parquet(job.ids, pq.read_table(job.documents, columns=["id"]))
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
    write_parquet(job.hashes, pa.Table.from_batches(batches, _SCHEMA))


def _write_cuts(job: _Finding) -> None:
    """Write the occurrences of repeated paragraphs but for the first of each."""
    if job.cuts.exists():
        return
    with spilling(job.spill, job.memory_gb) as connection:
        connection.execute(
            "CREATE TABLE paragraphs (place UBIGINT, number UINTEGER, high UBIGINT, low UBIGINT, document UBIGINT)"
        )
        for path, first in zip(job.hashes, job.firsts, strict=True):
            connection.execute(
                'INSERT INTO paragraphs SELECT ? + "row", number, high, low, document FROM read_parquet(?)',
                [first, str(path)],
            )
        connection.execute(
            """CREATE TABLE cuts AS
            WITH repeated AS (
                SELECT high, low, min((place << 32) | number) AS spot FROM paragraphs
                GROUP BY high, low HAVING count(DISTINCT document) >= ?
            )
            SELECT place, number, repeated.spot >> 32 AS holder FROM paragraphs JOIN repeated USING (high, low)
            WHERE (place << 32) | number <> spot""",
            [job.min_documents],
        )
        connection.execute("DROP TABLE paragraphs")
        connection.execute("CREATE TABLE holders (place UBIGINT, id VARCHAR)")
        for path, first in zip(job.ids, job.firsts, strict=True):
            connection.execute(
                """INSERT INTO holders
                SELECT ? + file_row_number AS place, id FROM read_parquet(?, file_row_number = true)
                WHERE place IN (SELECT holder FROM cuts)""",
                [first, str(path)],
            )
        with replacing(job.cuts, scratch=True) as temporary:
            path_ = str(temporary).replace("'", "''")
            connection.execute(
                f"""COPY (
                    SELECT cuts.place, number, holder, holders.id AS kept_in
                    FROM cuts JOIN holders ON holders.place = holder ORDER BY ALL
                ) TO '{path_}' (FORMAT parquet)"""
            )


def _cut(job: _Cutting) -> _Cut:
    """Write a shard without its cut paragraphs, and the account, if something is cut."""
    last = job.first + row_count(job.documents)
    cuts = pq.read_table(job.cuts, filters=[("place", ">=", job.first), ("place", "<", last)])
    if not len(cuts):
        return _Cut(0, 0, [])
    table = pq.read_table(job.documents)
    texts = table["text"].to_pylist()
    account: list[dict[str, str | int]] = []
    emptied: list[tuple[int, int]] = []
    for place, group in groupby(cuts.to_pylist(), key=lambda one: one["place"]):
        row, own = place - job.first, {one["number"]: one for one in group}
        origin = {name: table[name][row].as_py() for name in ("id", "source", "path", "position")}
        remaining, start = [], 0
        for number, paragraph in enumerate(texts[row].split(job.separator)):
            if number in own:
                shown = {"text_start": paragraph.strip()[:_SHOWN], "kept_in": own[number]["kept_in"]}
                account.append(origin | shown | {"start": start, "characters": len(paragraph)})
            else:
                remaining.append(paragraph)
            start += len(paragraph) + len(job.separator)
        texts[row] = job.separator.join(remaining).strip("\n")
        if not texts[row].strip():
            emptied.append((row, min(own.items())[1]["holder"]))
    column = table.column_names.index("text")
    write_parquet(job.account, pa.Table.from_pylist(account, CUT))
    write_parquet(job.out, table.set_column(column, table.schema.field("text"), pa.array(texts, pa.string())))
    return _Cut(len(account), sum(int(one["characters"]) for one in account), emptied)
