"""Tables: CSV and TSV, Parquet, Arrow and Feather."""

import csv
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

from homegrown.corpus.encodings import decode_utf8
from homegrown.corpus.readers.file import File, document
from homegrown.corpus.records import Document, Fault
from homegrown.corpus.streams import BUFFER, Stream, first_line, lines, seekable

if TYPE_CHECKING:
    import pyarrow as pa

_SPOOLED = 20  # times max_document_mb: limit of a compressed table in a temporary file


class _CsvLines:
    """The lines of a CSV file for `csv.reader`; `skip` leaves out a row whose field is too long.

    Invalid UTF-8 becomes lone surrogates, which identify the row later.
    """

    def __init__(self, stream: Stream, longest: int) -> None:
        self._lines = lines(stream, longest)
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
        """Mark the next line as outside quotes."""
        self._quoted = False

    def skip(self) -> None:
        """Skip the rest of a row, up to the line that closes the open quotes."""
        while self._quoted and (line := next(self._lines, None)):
            self._quoted ^= (line[1] or b"").count(b'"') % 2 == 1


def read_csv(file: File) -> Iterator[Document | Fault]:
    """Yield the texts of a comma-separated file."""
    return _csv(file, ",")


def read_tsv(file: File) -> Iterator[Document | Fault]:
    """Yield the texts of a tab-separated file, quoted as in Excel and pandas."""
    return _csv(file, "\t")


def _csv(file: File, delimiter: str) -> Iterator[Document | Fault]:
    csv.field_size_limit(file.longest)
    source = _CsvLines(file.utf8(), 2 * file.longest + BUFFER)
    rows = csv.reader(source, delimiter=delimiter)
    try:
        header = next(rows, [])
    except csv.Error as error:
        yield file.fault(f"no header: {error}")
        return
    column = file.source.text_column
    if header and column not in header:
        problem = _no_column(file.piece.locator, header, column)
        yield file.has_no_text(problem.encode(errors="replace").decode(), problem)
        return
    while True:
        source.begin_row()
        file.next()
        try:
            row = next(rows, None)
        except csv.Error as error:
            source.skip()
            yield file.fault(f"{error} (max_document_mb)")
            continue
        if row is None:
            return
        if row:
            yield _csv_row(file, header, row)


def _csv_row(file: File, header: list[str], row: list[str]) -> Document | Fault:
    file.tally.texts += 1
    if len(row) != len(header):
        return file.fault(f"the row has {len(row)} fields, the header {len(header)}")
    text = row[header.index(file.source.text_column)]
    return file.document(*decode_utf8(text.encode("utf-8", "surrogateescape")))


def read_parquet(file: File) -> Iterator[Document | Fault]:
    """Yield the texts of the piece's row groups; damage ends its group."""
    import pyarrow as pa  # here: every run imports this module, even if nothing is read
    import pyarrow.parquet as pq

    column = file.source.text_column
    with ExitStack() as open_files:
        stream = open_files.enter_context(seekable(file.stream, _SPOOLED * file.longest))
        metadata = pq.read_metadata(stream)
        problem = column_problem(file.piece.locator, metadata.schema.to_arrow_schema(), column)
        if problem:
            yield file.has_no_text(problem, problem)
            return
        # Keep dictionaries: one text of a file could fill a thousand rows.
        table = open_files.enter_context(
            pq.ParquetFile(stream, metadata=metadata, buffer_size=BUFFER, pre_buffer=False, read_dictionary=[column])
        )
        before = sum(metadata.row_group(i).num_rows for i in range(file.piece.start))
        for group in range(table.num_row_groups)[file.piece.start : file.piece.stop]:
            file.tally.lines = before
            before += metadata.row_group(group).num_rows
            size = metadata.row_group(group).total_byte_size / max(1, metadata.row_group(group).num_rows)
            rows = max(1, min(4096, int(8 * BUFFER / max(1, size))))
            try:
                for batch in table.iter_batches(rows, row_groups=[group], columns=[column], use_threads=False):
                    yield from _texts(file, batch[column])
            except (pa.ArrowException, OSError) as error:
                file.next()
                yield file.fault(f"the row group cannot be read from here on: {first_line(error)}")


def read_arrow(file: File) -> Iterator[Document | Fault]:
    """Yield the texts of an Arrow file or stream (Feather is an Arrow file), batch by batch."""
    with seekable(file.stream, _SPOOLED * file.longest) as stream:
        schema, batches = _arrow(stream)
        column = file.source.text_column
        problem = column_problem(file.piece.locator, schema, column)
        if problem:
            yield file.has_no_text(problem, problem)
            return
        for batch in batches:
            batch.validate(full=True)  # else offsets out of bounds would be read
            yield from _texts(file, batch[column])


def _arrow(stream: Stream) -> "tuple[pa.Schema, Iterator[pa.RecordBatch]]":
    import pyarrow as pa

    try:
        reader = pa.ipc.open_file(stream)
    except pa.ArrowInvalid:
        stream.seek(0)
        reader = pa.ipc.open_stream(stream)
        return reader.schema, iter(reader)
    return reader.schema, (reader.get_batch(number) for number in range(reader.num_record_batches))


def _texts(file: File, values: "pa.Array") -> Iterator[Document | Fault]:
    for text in texts(values):
        file.next()
        file.tally.texts += 1
        yield text_row(file.piece.locator, text, file.source.text_column, file.tally.lines)


def text_row(locator: str, text: bytes | None, column: str, number: int) -> Document | Fault:
    """Return the document or fault of one value that `texts` returns."""
    if text is None:
        return Fault(locator, number, f"{column!r} is null")
    return document(locator, number, *decode_utf8(text))


def column_problem(where: str, schema: "pa.Schema", column: str) -> str:
    """Return an error message unless `schema` has a text `column`; else an empty string."""
    import pyarrow as pa

    if column not in schema.names:
        return _no_column(where, schema.names, column)
    kind = schema.field(column).type
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_string_view(inner)):
        return f"Column {column!r} of {where} has type {kind}, not text; set another text_column."
    return ""


def _no_column(where: str, names: list[str], column: str) -> str:
    return f"{where} has no column {column!r}; set text_column to one of: {' '.join(', '.join(names)[:300].split())}."


def texts(column: "pa.Array") -> list[bytes | None]:
    """Return the values of a text column as bytes, since not every writer makes UTF-8.

    Equal values of a dictionary share one object.
    """
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        distinct: list[bytes | None] = column.dictionary.cast(pa.large_binary()).to_pylist()
        return [None if place is None else distinct[place] for place in column.indices.to_pylist()]
    values: list[bytes | None] = column.cast(pa.large_binary()).to_pylist()
    return values
