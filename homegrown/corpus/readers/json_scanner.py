"""The values of a JSON stream one by one, as people write them: in an array, or one after the other."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from homegrown.corpus.encodings import decode_utf8
from homegrown.corpus.records import MEGABYTE
from homegrown.corpus.streams import BUFFER, Stream, check_end

_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\]"]', re.DOTALL)
_STRING_END = re.compile(rb'(?:[^"\\]++|\\.)*+"', re.DOTALL)
_SEPARATORS = re.compile(rb"(?:[\s,\x1e]|\xef\xbb\xbf)*+")  # also those of JSON text sequences and of joined files
_SCALAR = re.compile(rb"[^\s,\]}\x1e]+")
_RECORD = re.compile(rb"(?:[},][\s,\x1e]*|\n)(?=\{)")  # before the start of another record
# An object whose first array has objects or texts, after members that are neither.
_WRAPPER = re.compile(
    rb'\{(?:\s*"[^"\\]*+"\s*:\s*(?:"(?:[^"\\]++|\\.)*+"|[^"\[\]{},]++)\s*,)*+\s*"[^"\\]*+"\s*:\s*\[\s*[{"]', re.DOTALL
)
_MOST_RECORDS = 1000
_OPEN, _CLOSE = b"{[", b"}]"


class Malformed(Exception):
    """Bytes that are not JSON; the message is the reason."""


class Unclosed(Malformed):
    """The stream ends in a value."""


class Replaced(dict[str, Any]):
    """An object with invalid bytes in `replaced` places, each of which became U+FFFD."""

    def __init__(self, value: dict[str, Any], replaced: int) -> None:
        super().__init__(value)
        self.replaced = replaced


class TooLong(Exception):
    """A value that is longer than the limit."""


def parse(data: bytes) -> Any:
    """Return a JSON value, also one with NaN, lone surrogates, line breaks in strings, or some invalid bytes.

    Raises Malformed.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        try:
            text, replaced = decode_utf8(data)
            value = json.loads(text, strict=False)
            return Replaced(value, replaced) if replaced and isinstance(value, dict) else value
        except (ValueError, RecursionError):
            raise Malformed(f"malformed JSON: {error.msg}") from None


class Scanner:
    """A JSON stream and a place in it; a value has at most `longest` bytes.

    After a malformed value it goes on at the next object that is a record.
    """

    def __init__(self, stream: Stream, longest: int, is_record: Callable[[Any], bool]) -> None:
        self._stream, self._longest, self._is_record = stream, longest, is_record
        self._buffer = b""
        self._place = 0

    def peek(self) -> int | None:
        """Go to the next value, or to the bracket that closes its array; return its first byte, None at the end."""
        while True:
            match = _SEPARATORS.match(self._buffer, self._place)
            self._place = match.end() if match else self._place
            if self._place < len(self._buffer):
                return self._buffer[self._place]
            if not self._more():
                return None

    def step(self) -> None:
        """Go behind a byte."""
        self._place += 1

    def value(self) -> Any:
        """Return the value at the place, and go behind it.

        Raises:
            Malformed: it is not JSON; the place is at the next record.
            TooLong, Unclosed: the place is still there.
        """
        end = self._end()
        if end < 0:
            if _WRAPPER.match(self._buffer, self._place):
                raise Unclosed("malformed JSON: an object is not closed")
            start = self._place
            self._recover(len(self._buffer))
            if self._place == len(self._buffer):
                self._place = start
                raise Unclosed("malformed JSON: a value is not closed")
            raise Malformed("malformed JSON: a value is not closed")
        try:
            value = parse(self._buffer[self._place : end])
        except Malformed:
            self._recover(end)
            raise
        self._place = end
        return value

    def end(self) -> None:
        """Go to the end of what was read."""
        self._place = len(self._buffer)

    def items(self) -> Iterator[Any]:
        """Yield the items of the array at the place, Malformed or TooLong in place of one; go behind the array."""
        self.step()
        while (first := self.peek()) not in (None, ord("]")):
            if first in (ord("}"), ord(":")):
                self.step()
                continue
            try:
                yield self.value()
            except Unclosed as error:
                self.end()
                yield error
                return
            except Malformed as error:
                yield error
            except TooLong:
                yield TooLong(f"an item of {self.skip() / MEGABYTE:.1f} MB, longer than max_document_mb")
        if first is None:
            yield Unclosed("malformed JSON: an array is not closed")
        else:
            self.step()

    def skip(self) -> int:
        """Go behind the value at the place, of any length; return its size."""
        depth, in_string, size = 0, False, 0
        while True:
            match = (_STRING_END.match if in_string else _TOKEN.search)(self._buffer, self._place)
            if match is None or (match[0] == b'"' and not in_string):
                in_string = in_string or match is not None
                end = match.end() if match else len(self._buffer)
                end -= (len(self._buffer) - len(self._buffer.rstrip(b"\\"))) % 2 if end == len(self._buffer) else 0
                size += end - self._place
                self._place = end
                if match is None and not self._more():
                    return size
                continue
            size += match.end() - self._place
            self._place, in_string = match.end(), False
            depth += (match[0] in _OPEN) - (match[0] in _CLOSE)
            if depth <= 0:
                return size

    def _end(self) -> int:
        """Return the end of the value at the place, -1 if the stream ends before; raise TooLong."""
        if self._buffer[self._place] not in b'{["':
            return self._scalar_end()
        depth, scanned = 0, 0  # bytes from the place on
        while True:
            match = _TOKEN.search(self._buffer, self._place + scanned)
            if match is None or match[0] == b'"':
                scanned = (match.start() if match else len(self._buffer)) - self._place
                if len(self._buffer) - self._place > self._longest:
                    raise TooLong
                if not self._more():
                    return -1
                continue
            scanned = match.end() - self._place
            depth += (match[0] in _OPEN) - (match[0] in _CLOSE)
            if depth <= 0:
                return match.end()

    def _scalar_end(self) -> int:
        while True:
            match = _SCALAR.match(self._buffer, self._place)
            end = match.end() if match else self._place + 1
            if end - self._place > self._longest:
                raise TooLong
            if end < len(self._buffer) or not self._more():
                return end

    def _recover(self, end: int) -> None:
        """Go to the next object before `end` that is a record, else to `end`."""
        for count, match in enumerate(_RECORD.finditer(self._buffer, self._place + 1, end)):
            depth, scanned = 0, match.end()
            for token in _TOKEN.finditer(self._buffer, scanned):
                depth += (token[0] in _OPEN) - (token[0] in _CLOSE)
                if depth == 0:
                    scanned = token.end()
                    break
            if self._is_record_at(match.end(), scanned):
                self._place = match.end()
                return
            if count == _MOST_RECORDS:
                break
        self._place = end

    def _is_record_at(self, start: int, end: int) -> bool:
        try:
            return self._is_record(parse(self._buffer[start:end]))
        except Malformed:
            return False

    def _more(self) -> bool:
        """Read on; return False at the end, raise Damaged if that is damage."""
        chunk = self._stream.read(BUFFER)
        self._buffer, self._place = self._buffer[self._place :] + chunk, 0
        if not chunk:
            check_end(self._stream)
        return bool(chunk)


class Group:
    """Lines that together may be one value: how many brackets they leave open, and whether they end in a string."""

    def __init__(self) -> None:
        self.data = b""
        self._depth, self._in_string = 0, False

    def add(self, line: bytes) -> bool:
        """Take a line; return whether the value is closed."""
        self.data += line
        place = 0
        if self._in_string:
            match = _STRING_END.match(line)
            if match is None:
                return False
            place, self._in_string = match.end(), False
        for token in _TOKEN.finditer(line, place):
            self._depth += (token[0] in _OPEN) - (token[0] in _CLOSE)
            self._in_string = token[0] == b'"'
            if self._in_string:
                return False
        return self._depth <= 0
