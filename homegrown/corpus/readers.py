"""Readers of files: bounded memory whatever the size of a file, a line or a row; what cannot be read is a fault."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from homegrown.corpus.records import Document, Fault, Piece, Tally
from homegrown.corpus.text import Stream, Undecodable, as_utf8, decode
from homegrown.errors import UserError

Lines = Iterator[tuple[int, bytes | None]]  # of each its length and, unless it is too long, its bytes

ENDINGS = (".txt", ".md", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".csv", ".parquet")
_BUFFER = 1 << 20
_DAMAGE = (EOFError, zlib.error, zstandard.ZstdError, pa.ArrowInvalid, UnicodeDecodeError, OSError)


def read(piece: Piece, column: str, longest: int, tally: Tally) -> Iterator[Document | Fault]:
    """Yield what is in a file, or in a part of one; `longest` bounds a document in bytes.

    A damaged file yields what was read before the damage, then a fault. Raises UserError when a table has no `column`.
    """
    name = piece.path.name.lower()
    try:
        if name.endswith(".parquet"):
            yield from _parquet(piece, column, longest)
        elif name.endswith(".csv"):
            yield from _csv(piece, column, longest, tally)
        elif name.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst")):
            yield from _json_lines(piece, column, longest, tally)
        else:
            yield from _whole(piece, longest)
    except Undecodable as error:
        yield Fault(piece.locator, 0, str(error))
    except _DAMAGE as error:
        yield Fault(piece.locator, tally.lines + 1, f"cannot be read from here on: {_sentence(error)}")


def _sentence(error: Exception) -> str:
    """Return an error's message without the path, which is no part of what is read."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip().split("\n")[0]


def _whole(piece: Piece, longest: int) -> Iterator[Document | Fault]:
    size = piece.path.stat().st_size
    if size > longest:
        yield Fault(piece.locator, 0, f"{size / 1e6:.1f} MB, longer than max_document_mb")
    else:
        yield Document(piece.locator, 1, decode(piece.path.read_bytes()))


@contextmanager
def _opened(path: Path, start: int = 0) -> Iterator[Stream]:
    """Open a file, unpacked, as UTF-8; from byte `start`, which is past the head only in files that are UTF-8."""
    with io.BufferedReader(io.FileIO(path), _BUFFER) as file:
        ending = path.suffix.lower()
        if ending == ".gz":
            yield as_utf8(io.BufferedReader(gzip.GzipFile(fileobj=file), _BUFFER))
        elif ending == ".zst":
            unpacked = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
            yield as_utf8(io.BufferedReader(unpacked, _BUFFER))
        elif start:
            file.seek(start)
            yield file
        else:
            yield as_utf8(file)


def _lines(stream: Stream, longest: int) -> Lines:
    """Yield each line's length and bytes; a line over `longest` bytes is passed over in pieces and yields None."""
    while line := stream.readline(longest):
        if len(line) < longest or line.endswith(b"\n"):
            yield len(line), line
            continue
        length = len(line)
        while not line.endswith(b"\n") and (line := stream.readline(_BUFFER)):
            length += len(line)
        yield length, None


def _json_lines(piece: Piece, column: str, longest: int, tally: Tally) -> Iterator[Document | Fault]:
    """Read the lines that begin in bytes `start` to `stop`; their numbers count from the piece's first."""
    start = max(0, piece.start - 1)  # the byte before shows whether a line begins here
    with _opened(piece.path, start) as stream:
        offset = stream.tell() if piece.stop else 0
        lines = _lines(stream, 2 * longest + _BUFFER)  # escapes make a text up to twice as long, rarely more
        if piece.start:
            offset += next(lines, (0, None))[0]
        for length, line in _until(lines, offset, piece.stop):
            tally.lines += 1
            if line is None:
                yield Fault(piece.locator, tally.lines, f"line of {length / 1e6:.1f} MB, longer than max_document_mb")
            elif line.strip():
                yield _json_line(piece, line, column, tally)


def _until(lines: Lines, offset: int, stop: int | None) -> Lines:
    """Yield the lines that begin before byte `stop`, the first of them at byte `offset`."""
    while stop is None or offset < stop:
        line = next(lines, None)
        if line is None:
            return
        yield line
        offset += line[0]


def _json_line(piece: Piece, line: bytes, column: str, tally: Tally) -> Document | Fault:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return Fault(piece.locator, tally.lines, f"malformed JSON: {error.msg}")
    if not isinstance(row, dict):
        return Fault(piece.locator, tally.lines, "the line is not a JSON object")
    tally.objects += 1
    if column not in row:
        tally.keys = tally.keys or tuple(sorted(row))
        return Fault(piece.locator, tally.lines, f"the object has no key {column!r}")
    tally.with_text += 1
    text = row[column]
    if not isinstance(text, str):
        return Fault(piece.locator, tally.lines, f"the value of {column!r} is not a string")
    return Document(piece.locator, tally.lines, text)


class _CsvLines:
    """The lines of a CSV file for `csv.reader`, one of which `skip` can leave out when a field is too long.

    Bytes that are not UTF-8 become lone surrogates, by which the row is known later.
    """

    def __init__(self, stream: Stream, longest: int) -> None:
        self._lines = _lines(stream, longest)
        self._quoted = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        _, line = next(self._lines)
        if line is None:
            raise csv.Error("a line is longer than max_document_mb")
        self._quoted ^= line.count(b'"') % 2 == 1
        return line.decode("utf-8", "surrogateescape")

    def begin_row(self) -> None:
        """Say that the next line is outside quotes."""
        self._quoted = False

    def skip(self) -> None:
        """Pass over the rest of a row: to the line that closes the open quotes."""
        while self._quoted and (line := next(self._lines, None)):
            self._quoted ^= (line[1] or b"").count(b'"') % 2 == 1


def _csv(piece: Piece, column: str, longest: int, tally: Tally) -> Iterator[Document | Fault]:
    csv.field_size_limit(longest)
    with _opened(piece.path) as stream:
        lines = _CsvLines(stream, 2 * longest + _BUFFER)
        rows = csv.reader(lines)
        try:
            header = next(rows, [])
        except csv.Error as error:
            yield Fault(piece.locator, 0, f"no header: {error}")
            return
        if header and column not in header:
            raise UserError(f"{piece.locator} has no column {column!r}; it has: {', '.join(header)}.")
        while True:
            lines.begin_row()
            tally.lines += 1
            try:
                row = next(rows, None)
            except csv.Error as error:
                lines.skip()
                yield Fault(piece.locator, tally.lines, f"{error} (max_document_mb)")
                continue
            if row is None:
                return
            if row:
                yield _csv_row(piece, header, row, column, tally.lines)


def _csv_row(piece: Piece, header: list[str], row: list[str], column: str, number: int) -> Document | Fault:
    if len(row) != len(header):
        return Fault(piece.locator, number, f"the row has {len(row)} fields, the header {len(header)}")
    text = row[header.index(column)]
    try:
        text.encode()
    except UnicodeEncodeError:
        return Fault(piece.locator, number, "broken UTF-8")
    return Document(piece.locator, number, text)


def _parquet(piece: Piece, column: str, longest: int) -> Iterator[Document | Fault]:
    with pq.ParquetFile(piece.path, buffer_size=_BUFFER, pre_buffer=False) as file:
        check_column(piece.locator, file.schema_arrow, column)
        groups = range(file.num_row_groups)[piece.start : piece.stop]
        number = sum(file.metadata.row_group(i).num_rows for i in range(piece.start))
        for group in groups:
            size = file.metadata.row_group(group).total_byte_size / max(1, file.metadata.row_group(group).num_rows)
            rows = max(1, min(4096, int(8 * _BUFFER / max(1, size))))
            try:
                for batch in file.iter_batches(rows, row_groups=[group], columns=[column]):
                    for text in texts(batch[column]):
                        number += 1
                        yield text_row(piece, text, column, number)
            except (pa.ArrowInvalid, OSError) as error:
                yield Fault(piece.locator, number + 1, f"cannot be read from here on: {_sentence(error)}")
                return


def text_row(piece: Piece, text: bytes | None, column: str, number: int) -> Document | Fault:
    """Return what a value of a table's column is, one of those that `texts` returns."""
    if text is None:
        return Fault(piece.locator, number, f"{column!r} is null")
    try:
        return Document(piece.locator, number, text.decode())
    except UnicodeDecodeError:
        return Fault(piece.locator, number, "broken UTF-8")


def check_column(where: str, schema: pa.Schema, column: str) -> None:
    """Raise UserError unless `schema` has `column` and it holds text."""
    if column not in schema.names:
        raise UserError(f"{where} has no column {column!r}; it has: {', '.join(schema.names)}.")
    kind = schema.field(column).type
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_string_view(inner)):
        raise UserError(f"Column {column!r} of {where} holds {kind}, not text; name another text_column.")


def texts(column: pa.Array) -> list[bytes | None]:
    """Return the values of a column that `check_column` accepts, as bytes, for not every writer makes UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    values: list[bytes | None] = column.cast(pa.large_binary()).to_pylist()
    return values
