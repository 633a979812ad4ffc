"""A unit of ingest's work: pieces of a source that one worker reads, cleans and writes atomically."""

import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa
import xxhash

from homegrown.config.corpus import AnySource, FilesSource, HubSource, PackagesSource
from homegrown.corpus import hub, packages
from homegrown.corpus.documents import QUARANTINE, REPAIRS, SCHEMA, document_id
from homegrown.corpus.readers import formats
from homegrown.corpus.records import MEGABYTE, Document, Fault, Piece, Tally, last_change
from homegrown.corpus.streams import is_remote
from homegrown.corpus.text import Cleaned, cleaned
from homegrown.corpus.warned import counted
from homegrown.store.digests import sha256
from homegrown.util.elsewhere import parts_of
from homegrown.util.errors import SourceChanged, UserError
from homegrown.util.files import replacing, write_parquet

SIZED = SCHEMA.append(pa.field("bytes", pa.int64()))  # documents with the UTF-8 bytes of their texts
_EXCERPT = 150  # characters of a repaired line
_MOST_ROWS = 100_000  # in memory at once


@dataclass(frozen=True)
class Unit:
    """Pieces to read, and the output folder; reading stops after `limit_bytes` of text."""

    folder: Path
    source: AnySource
    pieces: tuple[Piece, ...]
    longest: int  # bytes of a document
    shard_bytes: int
    limit_bytes: int | None


@dataclass(frozen=True)
class Summary:
    """Counts of a unit, and a tally for each of its pieces."""

    documents: int
    text_bytes: int
    quarantined: int
    left_out: int  # by the source's weight
    invalid_bytes: int  # places in the documents, each of which became U+FFFD
    repaired: int  # documents
    warnings: int  # of libraries
    tallies: tuple[Tally, ...]


def documents_of(unit: Unit) -> list[Path]:
    """Return the files of a unit's documents (SIZED) in order."""
    return parts_of(unit.folder, "documents-*.parquet")


def rows_of(unit: Unit, table: str) -> list[Path]:
    """Return the files of a unit's rows of `quarantine` or `repairs` in order."""
    return parts_of(unit.folder, f"{table}-*.parquet")


def read_unit(unit: Unit) -> Summary:
    """Read and write a unit unless it exists; its summary is written last."""
    path = unit.folder / "summary.json"
    if path.exists():
        loaded = json.loads(path.read_text())
        return Summary(**loaded | {"tallies": tuple(Tally(**tally) for tally in loaded["tallies"])})
    with counted() as warned:
        summary = replace(_read(unit), warnings=warned.count)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(asdict(summary)))
    return summary


def _check_here(unit: Unit, *, is_read: bool) -> None:
    """Raise UserError if a local file is not what was found, or this machine of a cluster does not see it.

    The SHA-256 of a file that was read must be that of the artifact's key. Only size and times are compared for a part
    of a file, and where no digest is known.
    """
    if isinstance(unit.source, HubSource):
        return
    for piece in unit.pieces:
        path = Path(piece.address)
        if is_remote(piece.address):
            continue
        try:
            status = path.stat()
            by_content = bool(piece.sha256) and piece.stop is None
            same = status.st_size == piece.size and (
                by_content or not piece.changed or last_change(status) == piece.changed
            )
            if is_read and same and by_content:
                same = sha256(path) == piece.sha256
        except OSError as error:
            raise UserError(
                f"Source {unit.source.name}: {path} is not found on {platform.node()}; put it where every worker sees "
                "it (a shared folder, s3://)."
            ) from error
        if not same:
            raise SourceChanged(
                f"Source {unit.source.name}: {path} changed while it was read; run again when it is complete."
            )


def _read(unit: Unit) -> Summary:
    _check_here(unit, is_read=False)
    documents = _Rows(unit.folder / "documents", SIZED, unit.shard_bytes)
    quarantine = _Rows(unit.folder / "quarantine", QUARANTINE, unit.shard_bytes)
    repairs = _Rows(unit.folder / "repairs", REPAIRS, unit.shard_bytes)
    tallies = tuple(Tally() for _ in unit.pieces)
    left_out = invalid_bytes = 0
    for record in _records(unit, tallies):
        found = cleaned(record.text) if isinstance(record, Document) else Cleaned("")
        row = _row(unit, record, found.text)
        if isinstance(row, Fault):
            quarantine.add((unit.source.name, row.path, row.position, row.reason), len(row.reason))
        elif _is_drawn(row[0], unit.source.weight):
            documents.add(row, row[-1])
            if found.repaired:
                before, after = _changed(found.before, found.after)
                repairs.add((unit.source.name, record.path, record.position, found.repaired, before, after), 0)
            invalid_bytes += record.replaced if isinstance(record, Document) else 0
        else:
            left_out += 1
        if unit.limit_bytes is not None and documents.total >= unit.limit_bytes:
            break
    _check_here(unit, is_read=True)
    documents.flush()
    quarantine.flush()
    repairs.flush()
    return Summary(
        documents.count, documents.total, quarantine.count, left_out, invalid_bytes, repairs.count, 0, tallies
    )


def _records(unit: Unit, tallies: tuple[Tally, ...]) -> Iterator[Document | Fault]:
    source = unit.source
    if isinstance(source, PackagesSource):
        yield from packages.read(unit.pieces)
        return
    for piece, tally in zip(unit.pieces, tallies, strict=True):
        if isinstance(source, FilesSource):
            yield from formats.read(piece, source, unit.longest, tally)
        else:
            yield from hub.read(source, piece)


def _changed(before: str, after: str) -> tuple[str, str]:
    """Return a line before and after its repair, from shortly before the first change on."""
    first = next((n for n, (one, other) in enumerate(zip(before, after, strict=False)) if one != other), 0)
    start = max(0, first - _EXCERPT // 3)
    return before[start : start + _EXCERPT], after[start : start + _EXCERPT]


def _row(unit: Unit, record: Document | Fault, text: str) -> tuple[str, str, str, str, int, str | None, int] | Fault:
    """Return the row of SIZED for a document with a clean text, or the fault that prevents it."""
    if isinstance(record, Fault):
        return record
    if not text or text.isspace():
        return Fault(record.path, record.position, "no text")
    size = len(text.encode())
    if size > unit.longest:
        return Fault(record.path, record.position, f"{size / MEGABYTE:.1f} MB, longer than max_document_mb")
    name = unit.source.name
    return document_id(name, record.path, text), text, name, record.path, record.position, record.url or None, size


def _is_drawn(identity: str, weight: float) -> bool:
    """Return whether the weight of the source keeps the document.

    Only a hash of the id decides. So a larger weight keeps the same documents and more, copies of a document stay or go
    together, and another seed does not change which documents a corpus has.
    """
    return weight == 1 or xxhash.xxh3_64_intdigest(f"weight\0{identity}".encode()) < weight * 2**64


class _Rows:
    """Rows of one table, written in files of bounded size, numbered from 0."""

    def __init__(self, stem: Path, schema: pa.Schema, file_bytes: int) -> None:
        self._stem, self._schema, self._file_bytes = stem, schema, file_bytes
        self._rows: list[tuple[str | int | None, ...]] = []
        self._buffered = 0
        self._files = 0
        self.count = 0
        self.total = 0

    def add(self, row: tuple[str | int | None, ...], size: int) -> None:
        """Add a row of about `size` bytes."""
        self._rows.append(row)
        self._buffered += size
        self.total += size
        if self._buffered >= self._file_bytes or len(self._rows) >= _MOST_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write the buffered rows."""
        if not self._rows:
            return
        columns = zip(*self._rows, strict=True)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
        path = self._stem.with_name(f"{self._stem.name}-{self._files:05d}.parquet")
        write_parquet(path, pa.table(arrays, schema=self._schema))
        self.count += len(self._rows)
        self._files += 1
        self._rows, self._buffered = [], 0
