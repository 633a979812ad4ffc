"""JSON: objects in lines, in an array or one after the other, an object of arrays, an array in an object."""

import io
from collections.abc import Iterator
from typing import Any

import orjson

from homegrown.config.corpus import FilesSource
from homegrown.corpus.compression import Damaged
from homegrown.corpus.readers.file import File
from homegrown.corpus.readers.json_scanner import Group, Malformed, Replaced, Scanner, TooLong, Unclosed
from homegrown.corpus.records import MEGABYTE, Document, Fault
from homegrown.corpus.streams import BUFFER, Lines, Stream, lines

_HEAD = 65_536  # bytes


def read_lines(file: File) -> Iterator[Document | Fault]:
    """Yield the texts of the objects that start in the piece's bytes; positions are lines from the piece's first one.

    An object may take several lines, and a line may have several objects. A file that starts as an array is one.
    """
    piece = file.piece
    stream = file.utf8()
    if piece.stop is None and _starts_an_array(stream):
        yield from _values(file, stream)
        return
    if piece.start:
        stream.seek(piece.start - 1)  # the previous byte shows whether a line starts here
    offset = stream.tell() if piece.stop else 0
    found = lines(stream, _longest(file))
    if piece.start:
        offset += next(found, (0, None))[0]
    following = _Following(_until(found, offset, piece.stop))
    while (found_line := following.next()) is not None:
        length, line = found_line
        file.next()
        if line is None:
            yield file.fault(f"line of {length / MEGABYTE:.1f} MB, longer than max_document_mb")
        elif line.strip():
            yield from _line(file, line, following)


def _starts_an_array(stream: Stream) -> bool:
    head = stream.peek(_HEAD)[:_HEAD].lstrip()
    first, _, rest = head.partition(b"\n")
    if not first.startswith(b"[") or not rest:
        return False
    try:
        orjson.loads(first)
    except orjson.JSONDecodeError:
        return True
    return False


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


class _Following:
    """Lines, with a look at the next one; damage is their end."""

    def __init__(self, found: Lines) -> None:
        self._found = found
        self._ahead: list[tuple[int, bytes | None] | None] = []

    def peek(self) -> tuple[int, bytes | None] | None:
        """Return the next line, None at the end."""
        if not self._ahead:
            try:
                self._ahead.append(next(self._found, None))
            except Damaged:  # raised again by whoever reads on
                self._ahead.append(None)
        return self._ahead[0]

    def next(self) -> tuple[int, bytes | None] | None:
        """Return the next line and go behind it."""
        self.peek()
        return self._ahead.pop()


def _line(file: File, line: bytes, following: _Following) -> Iterator[Document | Fault]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        yield from _slowly(file, line, following)
    else:
        for value in _rows(file, row) or [row]:
            yield _row(file, value, "line")


def _rows(file: File, value: Any) -> list[Any]:
    """Return the objects of a line: its own, or those of its array that have the text."""
    if isinstance(value, list):
        return value if any(_has(item, file.source.text_column) for item in value) else []
    return [value] if isinstance(value, dict) else []


_NOT_AN_OBJECT = "the line is not a JSON object"


def _scanner(file: File, stream: Any) -> Scanner:
    return Scanner(stream, _longest(file), lambda value: _has(value, file.source.text_column))


def _slowly(file: File, line: bytes, following: _Following) -> Iterator[Document | Fault]:
    """Yield the texts of a line with several values, or with a part of one that the following lines complete.

    If they are malformed, there is a fault for each line that starts like an object.
    """
    number = file.tally.lines
    starts, group = {number: line}, Group()
    closed = group.add(line)
    while not closed and (ahead := following.peek()) is not None:
        _, more = ahead
        if more is None or len(group.data) + len(more) > _longest(file) or _is_object(more):
            break  # the next line is an object: this one is malformed
        following.next()
        if more.startswith((b"{", b"[")):
            starts[file.next()] = more
        else:
            file.next()
        closed = group.add(more)
    places = list(starts)
    last, rows, reasons = file.tally.lines, 0, []
    for value in _all(_scanner(file, io.BytesIO(group.data))):
        found = list(_rows(file, value))
        if found:
            file.tally.lines = places[min(rows, len(places) - 1)]
            rows += 1
            for row in found:
                yield _row(file, row, "line")
        else:
            reasons.append(str(value) if isinstance(value, Malformed) else _NOT_AN_OBJECT)
    if reasons:
        for start in places[rows:] or places[-1:]:
            file.tally.lines = start
            yield file.fault(_NOT_AN_OBJECT if _is_json(starts[start]) else reasons[0])
    file.tally.lines = last


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
        return True
    except orjson.JSONDecodeError:
        return False


def _is_object(line: bytes) -> bool:
    try:
        return line.startswith(b"{") and isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False


def _all(scanner: Scanner) -> Iterator[Any]:
    """Yield all values, Malformed in place of one."""
    while scanner.peek() is not None:
        try:
            yield scanner.value()
        except Unclosed as error:
            yield error
            return
        except Malformed as error:
            yield error


def _row(file: File, row: Any, what: str) -> Document | Fault:
    if isinstance(row, str) and what == "item":
        file.tally.texts += 1
        return file.document(row)
    if not isinstance(row, dict):
        return file.fault(f"the {what} is not a JSON object")
    column = file.source.text_column
    text = find(row, column)
    if text is None and not _has(row, column):
        return _no_key(file, list(row))
    file.tally.texts += 1
    if not isinstance(text, str):
        return file.fault(f"the value of {column!r} is not a string")
    replaced = min(row.replaced, text.count("\ufffd")) if isinstance(row, Replaced) else 0
    url = find(row, file.source.url_column)
    return file.document(text, replaced, url if isinstance(url, str) else "")


def find(row: Any, column: str) -> Any:
    """Return the value of a key, or of a path such as `a.b`; None without it."""
    if not isinstance(row, dict) or column in row:
        return row.get(column) if isinstance(row, dict) else None
    first, dot, rest = column.partition(".")
    return find(row.get(first), rest) if dot else None


def _has(row: Any, column: str) -> bool:
    """Return whether a value is an object with a key, or with a path such as `a.b`."""
    if not isinstance(row, dict) or column in row:
        return isinstance(row, dict)
    *parents, last = column.split(".")
    inner = find(row, ".".join(parents)) if parents else row
    return isinstance(inner, dict) and last in inner


def _no_key(file: File, keys: list[str]) -> Fault:
    column = file.source.text_column
    return file.has_no_text(
        f"the object has no key {column!r}",
        f"No object of {file.piece.locator} has the key {column!r}; set text_column to one of: "
        f"{', '.join(sorted(keys))}.",
    )


def read(file: File) -> Iterator[Document | Fault]:
    """Yield the texts of a JSON file, streamed: an array, or values one after the other; positions count them.

    An object has the text under the column's key, an array of texts, or, under another key, an array of objects.
    """
    yield from _values(file, file.utf8())


def _values(file: File, stream: Stream) -> Iterator[Document | Fault]:
    scanner = _scanner(file, stream)
    while (first := scanner.peek()) is not None:
        if first == ord("["):
            for item in scanner.items():
                yield _item(file, item)
        else:
            yield from _value(file, scanner, first)


def _item(file: File, item: Any) -> Document | Fault:
    file.next()
    return file.fault(str(item)) if isinstance(item, Malformed | TooLong) else _row(file, item, "item")


def _value(file: File, scanner: Scanner, first: int) -> Iterator[Document | Fault]:
    try:
        value = scanner.value()
    except (TooLong, Unclosed, Damaged) as error:
        if first == ord("{"):
            yield from _members(file, scanner)
        elif isinstance(error, Damaged):
            raise
        else:
            file.next()
            yield file.fault(_too_long("a value", scanner) if isinstance(error, TooLong) else str(error))
            if isinstance(error, Unclosed):
                scanner.end()
    except Malformed as error:
        file.next()
        yield file.fault(str(error))
    else:
        rows = _inner_rows(value, file.source)
        if rows is None:
            file.next()
            yield _row(file, value, "value")
        else:
            for row in rows:
                yield _item(file, row)


def _inner_rows(value: Any, source: FilesSource) -> list[Any] | None:
    """Return the texts or objects in an object: an array at the column's path, within it, or under any key.

    None if the object has the text itself.
    """
    if not isinstance(value, dict):
        return None
    column = source.text_column
    found = find(value, column)
    if found is not None:
        return found if isinstance(found, list) else None
    parts = column.split(".")
    for depth in range(len(parts) - 1, 0, -1):
        inner = find(value, ".".join(parts[:depth]))
        if isinstance(inner, list):
            rest = ".".join(parts[depth:])
            return [_as_row(item, rest, source) for item in inner]
    for inner in value.values():
        if isinstance(inner, list) and any(_has(item, column) for item in inner):
            return inner
    return None


def _as_row(item: Any, path: str, source: FilesSource) -> Any:
    """Return an item as an object with the value of `path` as the text column's, and its URL."""
    if not _has(item, path):
        return item
    parent = source.text_column.removesuffix(path)
    url = find(item, source.url_column.removeprefix(parent))
    return {source.url_column: url, source.text_column: find(item, path)}


def _members(file: File, scanner: Scanner) -> Iterator[Document | Fault]:
    """Yield the texts of the arrays of an object, streamed: it is too long for memory, or not closed."""
    scanner.step()
    column = file.source.text_column
    keys: list[str] = []
    texts = file.tally.texts
    try:
        while (first := scanner.peek()) not in (None, ord("}")):
            keys.append(str(scanner.value()))
            if scanner.peek() == ord(":"):
                scanner.step()
            first = scanner.peek()
            if first == ord("["):
                yield from _member_items(file, scanner, keys[-1])
            elif first is not None:
                yield from _member(file, scanner, keys[-1] == column)
        if first is None:
            raise Unclosed("malformed JSON: an object is not closed")
        scanner.step()
    except Malformed as error:
        scanner.end()
        file.next()
        yield file.fault(str(error))
    else:
        if file.tally.texts == texts:
            file.next()
            yield _no_key(file, keys)


def _member_items(file: File, scanner: Scanner, key: str) -> Iterator[Document | Fault]:
    """Yield the texts of an array in an object: it is the column's, or one of objects with the column."""
    column = file.source.text_column
    first_key, _, rest = column.partition(".")
    for item in scanner.items():
        if isinstance(item, Unclosed):
            raise item
        if key == first_key and rest:
            yield _item(file, _as_row(item, rest, file.source))
        elif key == column or isinstance(item, Malformed | TooLong) or _has(item, column):
            yield _item(file, item)


def _member(file: File, scanner: Scanner, is_text: bool) -> Iterator[Document | Fault]:
    try:
        value = scanner.value()
    except TooLong:
        reason = _too_long("a value", scanner)
        if is_text:
            file.next()
            yield file.fault(reason)
    else:
        if is_text:
            yield _item(file, value)


def _too_long(what: str, scanner: Scanner) -> str:
    return f"{what} of {scanner.skip() / MEGABYTE:.1f} MB, longer than max_document_mb"
