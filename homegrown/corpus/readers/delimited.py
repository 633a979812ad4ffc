"""Delimited files (CSV, TSV): strict reading of quotation marks (RFC 4180), so that an open one costs one row."""

import io
import re
from collections import deque
from collections.abc import Iterator

from homegrown.corpus.compression import Damaged, Ending
from homegrown.corpus.encodings import SAMPLE, decode_utf8
from homegrown.corpus.readers.file import File
from homegrown.corpus.readers.tables import no_column
from homegrown.corpus.records import MEGABYTE, Document, Fault
from homegrown.corpus.streams import BUFFER, Stream, buffered, lines

_DELIMITERS = (b",", b";", b"\t", b"|")
_NO_DELIMITER = b"\x1f\x1f"  # of a file with one column
_SAMPLED_ROWS = 20
_INSIDE = re.compile(rb'(?:[^"]++|"")*+')  # of a quoted field
_EXCEL = re.compile(rb'"?sep=(.)"?\r?\n')  # a first line that Excel reads and does not show
_ROW_END = re.compile(rb"[\r\n]*\Z")
_OPEN = "a quotation mark opens and does not close; set quoting: false if it is text"


class _Rows:
    """The rows of a stream as fields of bytes, [] for a blank line; a reason in place of a row that cannot be read.

    A quotation mark that opens a field and does not close, or closes within a line far below, makes its own line
    unreadable; the lines below are rows of their own. `width`, `text` and `url` are the number of columns and the
    places of text and URL, known after the header.
    """

    def __init__(self, stream: Stream, delimiter: bytes, quoting: bool, longest: int) -> None:
        self._lines = lines(stream, 2 * longest + BUFFER)
        self._delimiter, self._quoting, self._longest = delimiter, quoting, longest
        self._again: deque[bytes] = deque()
        self._damage: Damaged | None = None
        self.width = self.text = 0
        self.url: int | None = None

    def next(self) -> list[bytes] | str | None:
        """Return the next row; None at the end. Raises Damaged."""
        line = self._line()
        if line is None or line == b"":
            return self.too_long() if line == b"" else None
        if not line.strip(b"\r\n"):
            return []
        if self._quoting and b'"' in line:
            return self._quoted(line)
        return line.rstrip(b"\r\n").split(self._delimiter)

    def _line(self) -> bytes | None:
        """Return the next line; empty for one that is too long, None at the end."""
        if self._again:
            return self._again.popleft()
        if self._damage:
            raise self._damage
        found = next(self._lines, None)
        return None if found is None else found[1] or b""

    def too_long(self) -> str:
        """Return the reason for a field beyond the limit."""
        return f"a field is longer than {self._longest / MEGABYTE:g} MB (max_document_mb)"

    def _quoted(self, line: bytes) -> list[bytes] | str:
        fields: list[bytes] = []
        below: list[bytes] = []  # lines after the first one
        place = 0
        while True:
            if line.startswith(b'"', place):
                found = self._quoted_field(line, place, below)
                if isinstance(found, str):
                    return found
                field, line, place = found
            else:
                end = line.find(self._delimiter, place)
                field = line[place:end] if end >= 0 else line[place:].rstrip(b"\r\n")
                place = end if end >= 0 else len(line)
            fields.append(field)
            if _ROW_END.match(line, place):
                break
            place += len(self._delimiter)
        if below and ((self.width and len(fields) != self.width) or self._has_swallowed(fields, below)):
            return self._reread(below)
        return fields

    def _quoted_field(self, line: bytes, start: int, below: list[bytes]) -> tuple[bytes, bytes, int] | str:
        """Return the field that opens at a place, its last line and the place behind it there."""
        parts: list[bytes] = []
        before, size, begin = len(below), 0, start + 1
        while True:
            match = _INSIDE.match(line, begin)
            end = match.end() if match else begin
            parts.append(line[begin:end].replace(b'""', b'"'))
            if end == len(line):  # open
                size += len(line)
                following = self._below(below)
                if isinstance(following, str):
                    return following
                below.append(following)
                if not following or size > 2 * self._longest + BUFFER:
                    return self._reread(below) if self._are_rows(below) else self._skip(following)
                line, begin = following, 0
            elif line.startswith(self._delimiter, end + 1) or _ROW_END.match(line, end + 1):
                if size > self._longest and not self._are_rows(below):
                    return self.too_long()
                return b"".join(parts), line, end + 1
            elif line.endswith(b"\\", 0, end):  # as MySQL writes a quotation mark
                parts[-1] = parts[-1][:-1] + b'"'
                begin = end + 1
            elif len(below) > before:
                return self._reread(below)
            else:  # a word in quotation marks, and more text
                stop = line.find(self._delimiter, end)
                stop = stop if stop >= 0 else len(line.rstrip(b"\r\n"))
                return line[start:stop], line, stop

    def _below(self, below: list[bytes]) -> bytes | str:
        """Return the line below, empty for one that is too long, or why the row ends."""
        try:
            following = self._line()
        except Damaged as error:
            self._damage = error
            if self._are_rows(below):
                return self._reread(below)
            raise
        return self._reread(below) if following is None else following

    def _reread(self, below: list[bytes]) -> str:
        self._again.extendleft(reversed(below))
        return _OPEN

    def _skip(self, line: bytes) -> str:
        """Skip the rest of a field that is too long."""
        following: bytes | None = line
        while following is not None:
            match = _INSIDE.match(following)
            end = match.end() if match else 0
            if end < len(following):
                break
            following = self._line()
        return self.too_long()

    def _fields(self, line: bytes) -> list[bytes]:
        return line.rstrip(b"\r\n").split(self._delimiter)

    def _are_rows(self, below: list[bytes]) -> bool:
        """Return whether most lines have as many fields as a row."""
        some = below[:100]
        return self.width > 1 and sum(len(self._fields(line)) == self.width for line in some) * 2 > len(some)

    def _has_swallowed(self, fields: list[bytes], below: list[bytes]) -> bool:
        """Return whether the lines of a field are rows: all are numbered like the row itself."""
        key = 0 if self.text else self.width - 1
        if self.width < 2 or not fields[key].isdigit():
            return False
        rows = [self._fields(line) for line in below]
        return all(len(row) == self.width and row[key].strip(b'"').isdigit() for row in rows)


class _Newlines(Ending):
    """A stream whose lines end in carriage returns, with newlines in their place."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._stream = stream

    def _fill(self, buffer: memoryview) -> int:
        data = self._stream.read1(len(buffer)).replace(b"\r", b"\n")
        buffer[: len(data)] = data
        return len(data)


def read_csv(file: File) -> Iterator[Document | Fault]:
    """Yield the texts of a file with commas, or the delimiter found in it."""
    return _read(file, b",")


def read_tsv(file: File) -> Iterator[Document | Fault]:
    """Yield the texts of a file with tabs, or the delimiter found in it."""
    return _read(file, b"\t")


def _read(file: File, usual: bytes) -> Iterator[Document | Fault]:
    stream = file.utf8()
    sample = bytes(stream.peek(SAMPLE)[:SAMPLE])
    if b"\n" not in sample and b"\r" in sample:
        stream, sample = buffered(_Newlines(stream)), sample.replace(b"\r", b"\n")
    mark = _EXCEL.match(sample)
    if mark:
        stream.read(mark.end())
        sample = sample[mark.end() :]
    delimiter = file.source.delimiter.encode() if file.source.delimiter else mark[1] if mark else None
    rows = _Rows(stream, delimiter or _detected(file, sample, usual), file.source.quoting, file.longest)
    first = rows.next()
    while first == []:
        first = rows.next()
    if isinstance(first, str):
        yield file.fault(f"no header: {first}")
        return
    if first is None:
        return
    names = [decode_utf8(name)[0].strip() for name in first]
    problem = _find_text(file, names, rows)
    if problem:
        yield file.has_no_text(problem, problem)
        return
    if not _has_header(file, names):
        file.next()
        yield _document(file, rows, first)
    while True:
        file.next()
        row = rows.next()
        if row is None:
            return
        if isinstance(row, str):
            yield file.fault(row)
        elif row:
            yield _document(file, rows, row)


def _document(file: File, rows: _Rows, row: list[bytes]) -> Document | Fault:
    file.tally.texts += 1
    if len(row) != rows.width:
        return file.fault(f"the row has {len(row)} fields, the header {rows.width}")
    text = row[rows.text]
    if len(text) > file.longest:
        return file.fault(rows.too_long())
    return file.document(*decode_utf8(text), "" if rows.url is None else decode_utf8(row[rows.url])[0])


def _has_header(file: File, names: list[str]) -> bool:
    """Return whether the first row names the columns, as set or by the name of the text column."""
    column = file.source.text_column
    return file.source.header if file.source.header is not None else column in names or not column.isdecimal()


def _find_text(file: File, names: list[str], rows: _Rows) -> str:
    """Set the width of the rows and the place of the text; return what is wrong."""
    column, where = file.source.text_column, file.piece.locator
    rows.width = len(names)
    if _has_header(file, names):
        if column not in names:
            return no_column(where, names, column).rstrip(".") + "; or header: false."
        rows.text = names.index(column)
        rows.url = names.index(file.source.url_column) if file.source.url_column in names else None
    elif column.isdecimal() and 1 <= int(column) <= len(names):
        rows.text = int(column) - 1
        url = file.source.url_column
        rows.url = int(url) - 1 if url.isdecimal() and 1 <= int(url) <= len(names) else None
    elif len(names) > 1:
        return f"{where} has no header; set text_column to the number of a column, 1 to {len(names)}."
    return ""


def _detected(file: File, sample: bytes, usual: bytes) -> bytes:
    """Return the delimiter with which the first row has the text column, else the one that makes most columns.

    Without a header it must make the same number of columns in the first rows.
    """
    tables = {delimiter: _sampled(file, sample, delimiter) for delimiter in dict.fromkeys((usual, *_DELIMITERS))}
    column = file.source.text_column.encode()
    if file.source.header is not False:
        for delimiter, rows in tables.items():
            if rows and len(rows[0]) > 1 and column in [name.strip() for name in rows[0]]:
                return delimiter
        if not file.source.text_column.isdecimal():
            tables = {delimiter: rows[:1] for delimiter, rows in tables.items()}
    widths = {delimiter: len(rows[0]) for delimiter, rows in tables.items() if rows and len({*map(len, rows)}) == 1}
    if widths.get(usual, 0) > 1:
        return usual
    best = max(widths, key=lambda delimiter: widths[delimiter], default=_NO_DELIMITER)
    return best if widths.get(best, 0) > 1 else _NO_DELIMITER


def _sampled(file: File, sample: bytes, delimiter: bytes) -> list[list[bytes]]:
    complete = sample if len(sample) < SAMPLE else sample[: sample.rfind(b"\n") + 1] or sample
    rows = _Rows(buffered(io.BytesIO(complete)), delimiter, file.source.quoting, file.longest)
    found: list[list[bytes]] = []
    while len(found) < _SAMPLED_ROWS and (row := rows.next()) is not None:
        if row and not isinstance(row, str):
            found.append(row)
    return found
