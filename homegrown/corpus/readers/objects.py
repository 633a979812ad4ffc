"""JSON: lines of objects, an array of objects, an object of arrays, or a single object."""

from collections.abc import Iterator
from typing import Any, cast

import ijson
import orjson

from homegrown.corpus.readers.file import File
from homegrown.corpus.records import MEGABYTE, Document, Fault
from homegrown.corpus.streams import BUFFER, Bounded, Lines, Stream, check_end, lines, pushed_back
from homegrown.corpus.text import as_utf8

_VALUES = frozenset({"string", "number", "boolean", "null", "start_map", "start_array"})


def read_lines(file: File) -> Iterator[Document | Fault]:
    """Yield the texts of the lines that start in the piece's bytes; positions count from the piece's first line."""
    piece = file.piece
    stream = as_utf8(file.stream)
    if piece.start:
        stream.seek(piece.start - 1)  # the previous byte shows whether a line starts here
    offset = stream.tell() if piece.stop else 0
    found = lines(stream, _longest(file))
    if piece.start:
        offset += next(found, (0, None))[0]
    for length, line in _until(found, offset, piece.stop):
        file.next()
        if line is None:
            yield file.fault(f"line of {length / MEGABYTE:.1f} MB, longer than max_document_mb")
        elif line.strip():
            yield _line(file, line)


def _longest(file: File) -> int:
    """Return the limit of bytes per object: escapes make a text up to twice as long, rarely more."""
    return 2 * file.longest + BUFFER


def _until(found: Lines, offset: int, stop: int | None) -> Lines:
    """Yield the lines that start before byte `stop`; the first one starts at byte `offset`."""
    while stop is None or offset < stop:
        line = next(found, None)
        if line is None:
            return
        yield line
        offset += line[0]


def _line(file: File, line: bytes) -> Document | Fault:
    try:
        return _row(file, orjson.loads(line), "line")
    except orjson.JSONDecodeError as error:
        return file.fault(f"malformed JSON: {error.msg}")


def _row(file: File, row: Any, what: str) -> Document | Fault:
    if isinstance(row, str) and what == "item":
        file.tally.texts += 1
        return file.document(row)
    if not isinstance(row, dict):
        return file.fault(f"the {what} is not a JSON object")
    column = file.source.text_column
    if column not in row:
        return _no_key(file, list(row))
    file.tally.texts += 1
    text = row[column]
    return file.document(text) if isinstance(text, str) else file.fault(f"the value of {column!r} is not a string")


def _no_key(file: File, keys: list[str]) -> Fault:
    column = file.source.text_column
    return file.has_no_text(
        f"the object has no key {column!r}",
        f"No object of {file.piece.locator} has the key {column!r}; set text_column to one of: "
        f"{', '.join(sorted(keys))}.",
    )


def read(file: File) -> Iterator[Document | Fault]:
    """Yield the texts of a JSON file, streamed; a file whose first line is an object is read as JSON lines.

    Positions count the items of the array. Reading stops at malformed JSON. Raises TooMuch for an item longer than a
    document may be.
    """
    stream = as_utf8(file.stream)
    head = stream.readline(_longest(file))
    while head.isspace():
        head = stream.readline(_longest(file))
    stream = pushed_back(head, stream)
    if _is_object(head, file.source.text_column):
        for length, line in lines(stream, _longest(file)):
            file.next()
            if line is None:
                yield file.fault(f"line of {length / MEGABYTE:.1f} MB, longer than max_document_mb")
            elif line.strip():
                yield _line(file, line)
        return
    try:
        yield from _items(file, stream) if head.lstrip().startswith(b"[") else _values(file, stream)
    except ijson.JSONError as error:
        check_end(stream)
        file.next()
        yield file.fault(f"malformed JSON, cannot be read from here on: {' '.join(str(error).split())[:100]}")


def _is_object(line: bytes, column: str) -> bool:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return isinstance(row, dict) and not isinstance(row.get(column), list)


def _bounded(file: File, stream: Stream) -> Bounded:
    return Bounded(stream, _longest(file), "an item is longer than max_document_mb")


def _items(file: File, stream: Stream) -> Iterator[Document | Fault]:
    bounded = _bounded(file, stream)
    for item in ijson.items(cast(Any, bounded), "item", use_float=True):
        bounded.renew()
        file.next()
        yield _row(file, item, "item")


def _values(file: File, stream: Stream) -> Iterator[Document | Fault]:
    """Yield the text under the column's key, or the texts of the array there."""
    column = file.source.text_column
    bounded = _bounded(file, stream)
    keys: list[str] = []
    for place, event, value in ijson.parse(cast(Any, bounded), use_float=True):
        bounded.renew()
        if event == "map_key" and not place:
            keys.append(value)
        elif place in (column, f"{column}.item") and event in _VALUES - {"start_array" if place == column else ""}:
            file.next()
            file.tally.texts += 1
            yield file.document(value) if event == "string" else file.fault(f"a value of {column!r} is not a string")
    if column not in keys:
        file.next()
        yield _no_key(file, keys)
