"""Tables: Parquet, Arrow and Feather."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

from homegrown.corpus.encodings import decode_utf8
from homegrown.corpus.readers.file import File, document
from homegrown.corpus.records import Document, Fault
from homegrown.corpus.streams import BUFFER, Stream, first_line, seekable

if TYPE_CHECKING:
    import pyarrow as pa

_SPOOLED = 20  # times max_document_mb: limit of a compressed table in a temporary file


def read_parquet(file: File) -> Iterator[Document | Fault]:
    """Yield the texts of the piece's row groups; damage ends its group."""
    import pyarrow as pa  # here: every run imports this module, even if nothing is read
    import pyarrow.parquet as pq

    column, url = file.source.text_column, file.source.url_column
    with ExitStack() as open_files:
        stream = open_files.enter_context(seekable(file.stream, _SPOOLED * file.longest))
        metadata = pq.read_metadata(stream)
        problem = column_problem(file.piece.locator, metadata.schema.to_arrow_schema(), column)
        if problem:
            yield file.has_no_text(problem, problem)
            return
        columns = [column, *([url] if has_text(metadata.schema.to_arrow_schema(), url) else [])]
        # Keep dictionaries: one text of a file could fill a thousand rows.
        table = open_files.enter_context(
            pq.ParquetFile(stream, metadata=metadata, buffer_size=BUFFER, pre_buffer=False, read_dictionary=columns)
        )
        before = sum(metadata.row_group(i).num_rows for i in range(file.piece.start))
        for group in range(table.num_row_groups)[file.piece.start : file.piece.stop]:
            file.tally.lines = before
            before += metadata.row_group(group).num_rows
            size = metadata.row_group(group).total_byte_size / max(1, metadata.row_group(group).num_rows)
            rows = max(1, min(4096, int(8 * BUFFER / max(1, size))))
            try:
                for batch in table.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False):
                    yield from _texts(file, batch)
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
            yield from _texts(file, batch)


def _arrow(stream: Stream) -> "tuple[pa.Schema, Iterator[pa.RecordBatch]]":
    import pyarrow as pa

    try:
        reader = pa.ipc.open_file(stream)
    except pa.ArrowInvalid:
        stream.seek(0)
        reader = pa.ipc.open_stream(stream)
        return reader.schema, iter(reader)
    return reader.schema, (reader.get_batch(number) for number in range(reader.num_record_batches))


def _texts(file: File, batch: "pa.RecordBatch") -> Iterator[Document | Fault]:
    values = texts(column_of(batch, file.source.text_column))
    for text, url in zip(values, urls(batch, file.source.url_column), strict=True):
        file.next()
        file.tally.texts += 1
        yield text_row(file.piece.locator, text, file.source.text_column, file.tally.lines, url)


def text_row(locator: str, text: bytes | None, column: str, number: int, url: bytes | None) -> Document | Fault:
    """Return the document or fault of one value that `texts` returns, with its URL."""
    if text is None:
        return Fault(locator, number, f"{column!r} is null")
    return document(locator, number, *decode_utf8(text), decode_utf8(url or b"")[0])


def column_problem(where: str, schema: "pa.Schema", column: str) -> str:
    """Return an error message unless `schema` has a text `column`; else an empty string."""
    import pyarrow as pa

    first, *rest = _path(schema.names, column)
    if first not in schema.names:
        return no_column(where, schema.names, column)
    kind = schema.field(first).type
    for name in rest:
        if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
            names = [f"{first}.{field.name}" for field in kind] if pa.types.is_struct(kind) else schema.names
            return no_column(where, names, column)
        kind = kind.field(name).type
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not any(is_text(inner) for is_text in _text_types()):
        return f"Column {column!r} of {where} has type {kind}, not text; set another text_column."
    return ""


def has_text(schema: "pa.Schema", column: str) -> bool:
    """Return whether `schema` has a text `column`."""
    return not column_problem("", schema, column)


def _path(names: list[str], column: str) -> list[str]:
    """Return the path of a column, such as `a.b` of a structure a, unless a column has this name."""
    return [column] if column in names else column.split(".")


def _text_types() -> "tuple[Callable[[pa.DataType], bool], ...]":
    """Return tests of the types with text; some writers mark UTF-8 as bytes."""
    import pyarrow as pa

    types = pa.types
    return (
        *(types.is_string, types.is_large_string, types.is_string_view),
        *(types.is_binary, types.is_large_binary, types.is_binary_view),
    )


def column_of(table: "pa.Table | pa.RecordBatch", column: str) -> "pa.Array":
    """Return a column of a table or batch, or the field of its structures at a path such as `a.b`."""
    import pyarrow.compute as pc

    first, *rest = _path(table.schema.names, column)
    values = table[first]
    return pc.struct_field(values, rest) if rest else values


def no_column(where: str, names: list[str], column: str) -> str:
    """Return an error message for a missing text column."""
    return f"{where} has no column {column!r}; set text_column to one of: {' '.join(', '.join(names)[:300].split())}."


def urls(batch: "pa.RecordBatch | pa.Table", column: str) -> list[bytes | None]:
    """Return the values of a text column of URLs, None for each row without it."""
    import pyarrow as pa

    if not has_text(batch.schema, column):
        return [None] * len(batch)
    values = column_of(batch, column)
    return texts(values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values)


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
