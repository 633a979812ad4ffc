"""Streams of bytes: local or remote, decompressed, bounded, split into lines or at a separator."""

import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, BinaryIO, TypeAlias, cast

from homegrown.corpus.compression import Decompressed, Ending
from homegrown.corpus.records import MEGABYTE

Stream: TypeAlias = "io.BufferedReader[Any]"
Lines = Iterator[tuple[int, bytes | None]]  # length and bytes of each, None if too long

BUFFER = 1 << 20
MOST_DENSELY = 200  # bytes per compressed byte; text compresses 3 to 20 times, a bomb 1,000 times and more


class Unreachable(Exception):
    """A file system stopped answering; the message names the file and the cause."""


class TooMuch(Exception):
    """A stream exceeds its limit of bytes; the message is the reason."""


class _Remote(io.RawIOBase):
    """A file of `fsspec`; all errors of its clients become Unreachable."""

    def __init__(self, address: str) -> None:
        import fsspec

        self._address = address
        self._file = self._answer(lambda: fsspec.open(address, "rb", compression=None).open())

    def _answer(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except Exception as error:  # of an HTTP, S3, ... client
            raise Unreachable(f"{self._address} cannot be read: {first_line(error)}") from error

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        data = self._answer(lambda: self._file.read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return int(self._answer(lambda: self._file.seek(offset, whence)))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        self._file.close()
        super().close()


class Bounded(Ending):
    """A stream that raises TooMuch after more than `most` bytes since the last `renew`."""

    def __init__(self, stream: IO[bytes], most: int, reason: str) -> None:
        super().__init__()
        self._stream, self._most, self._reason = stream, most, reason
        self._left = most

    def _fill(self, buffer: memoryview) -> int:
        data = self._stream.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise TooMuch(self._reason)
        buffer[: len(data)] = data
        return len(data)

    def renew(self) -> None:
        """Restart the count."""
        self._left = self._most


class _Chained(Ending):
    """Bytes already read, then the rest of their stream."""

    def __init__(self, head: bytes, stream: Stream) -> None:
        super().__init__()
        self._head, self._stream = head, stream

    def _fill(self, buffer: memoryview) -> int:
        if not self._head:
            return self._stream.readinto(buffer)
        size = min(len(buffer), len(self._head))
        buffer[:size], self._head = self._head[:size], self._head[size:]
        return size


def is_remote(address: str) -> bool:
    """Return whether an address is for `fsspec`."""
    return "://" in address


@contextmanager
def opened(address: str) -> Iterator[Stream]:
    """Open a file for reading; raise OSError for a local one, Unreachable for a remote one."""
    raw = _Remote(address) if is_remote(address) else io.FileIO(address)
    with buffered(raw) as stream:
        yield stream


def buffered(raw: io.RawIOBase | BinaryIO) -> Stream:
    """Return a stream with a buffer for looking ahead."""
    return io.BufferedReader(cast(io.RawIOBase, raw), BUFFER)


def pushed_back(head: bytes, stream: Stream) -> Stream:
    """Return the stream with `head` before its remaining bytes."""
    return buffered(_Chained(head, stream))


def unpacked(stream: Stream, compression: str) -> Stream:
    """Return the stream decompressed by one of COMPRESSIONS; unchanged for an empty string.

    At damage it ends; a further read raises Damaged.
    """
    return buffered(Decompressed(stream, compression)) if compression else stream


def check_end(stream: Stream) -> None:
    """Raise Damaged if a stream has ended by damage."""
    stream.read(1)


@contextmanager
def seekable(stream: Stream, most: int) -> Iterator[Stream]:
    """Yield a seekable stream with the same bytes: a temporary file of at most `most` bytes.

    Raises TooMuch for more. Files on a disk or a server are yielded unchanged.
    """
    if isinstance(stream.raw, io.FileIO | _Remote):
        yield stream
        return
    with tempfile.TemporaryFile() as file:
        while chunk := stream.read(BUFFER):
            if file.tell() + len(chunk) > most:
                raise TooMuch(f"more than {most / MEGABYTE:.0f} MB decompressed")
            file.write(chunk)
        file.seek(0)
        yield cast(Stream, file)


def most_unpacked(size: int) -> int:
    """Return the limit of decompressed bytes for a file of `size` bytes, at least 200 MB."""
    return MOST_DENSELY * (size + MEGABYTE)


def read_all(stream: Stream, longest: int) -> bytes:
    """Return all bytes of a stream, up to damage; raise TooMuch for more than `longest`."""
    data = stream.read(longest + 1)
    if len(data) > longest:
        raise TooMuch(f"longer than {longest / MEGABYTE:g} MB (max_document_mb)")
    return data


def lines(stream: Stream, longest: int) -> Lines:
    """Yield length and bytes of each line; None instead of the bytes for a line over `longest` bytes.

    Raises Damaged at damage, without the line that it cuts.
    """
    while line := stream.readline(longest):
        if len(line) < longest or line.endswith(b"\n"):
            if not line.endswith(b"\n"):
                check_end(stream)  # part of a line before damage is not a line
            yield len(line), line
            continue
        length = len(line)
        while not line.endswith(b"\n") and (line := stream.readline(BUFFER)):
            length += len(line)
        yield length, None


def separated(stream: Stream, separator: bytes, longest: int, start: int = 0) -> Iterator[tuple[int, bytes | None]]:
    """Yield byte offset and bytes of each part between separators; None for one of more than `longest` bytes.

    Every occurrence of the separator ends a part, even one that overlaps another (three newlines are two blank lines).
    So a file has the same parts from any starting point. With `start`, the stream must be `len(separator)` bytes before
    it, and the first part is the first one that starts at `start` or later.
    """
    width = len(separator)
    buffer, base = b"", max(0, start - width)  # buffered bytes, and the offset of the first one
    begin, scanned = (width - 1 if start else 0), 0  # in the buffer: start of the part, start of the search
    origin = None if start else 0  # offset of the part; None before the first one
    lost = False
    while True:
        at = buffer.find(separator, max(scanned, begin - width + 1))
        if at >= 0:
            if origin is not None:
                yield origin, None if lost or at - begin > longest else buffer[begin : max(begin, at)]
            begin, scanned, lost = at + width, 0, False
            origin = base + begin
            continue
        if len(buffer) - begin > longest + width:
            lost, begin = True, len(buffer)
        kept = max(0, begin - width + 1)
        scanned = max(0, len(buffer) - kept - width + 1)
        chunk = stream.read(BUFFER)
        buffer, begin, base = buffer[kept:] + chunk, begin - kept, base + kept
        if not chunk:
            check_end(stream)
            if origin is not None and (lost or begin < len(buffer)):
                yield origin, None if lost or len(buffer) - begin > longest else buffer[begin:]
            return


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, without the path of a file."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip() or error.__class__.__name__).split("\n")[0]
