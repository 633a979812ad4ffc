"""Streams of bytes: opened on this machine or by `fsspec`, unpacked, bounded, cut into lines or at a separator."""

import bz2
import gzip
import io
import lzma
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, BinaryIO, TypeAlias, cast

import zstandard

from homegrown.corpus.records import MEGABYTE

Stream: TypeAlias = "io.BufferedReader[Any]"
Lines = Iterator[tuple[int, bytes | None]]  # of each its length and, unless it is too long, its bytes

BUFFER = 1 << 20
MOST_DENSELY = 200  # bytes from one packed byte; text packs 3 to 20 times, a bomb 1,000 times and more


class Unreachable(Exception):
    """A file system that stopped answering; the message says which file and why."""


class TooMuch(Exception):
    """More bytes than a stream may give; the message is the reason."""


class _Reader(io.RawIOBase):
    """Something to read from."""

    def readable(self) -> bool:
        """Return True."""
        return True


class _Remote(_Reader):
    """A file of `fsspec`, whose clients raise errors of their own: all of them become Unreachable."""

    def __init__(self, address: str) -> None:
        import fsspec

        self._address = address
        self._file = self._answer(lambda: fsspec.open(address, "rb", compression=None).open())

    def _answer(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except Exception as error:  # of an HTTP, S3, ... client
            raise Unreachable(f"{self._address} cannot be read: {first_line(error)}") from error

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


class Bounded(_Reader):
    """A stream that raises TooMuch once more than `most` bytes were read since it was last `renewed`."""

    def __init__(self, stream: IO[bytes], most: int, reason: str) -> None:
        self._stream, self._most, self._reason = stream, most, reason
        self._left = most

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Read at most as many bytes as the buffer takes."""
        data = self._stream.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise TooMuch(self._reason)
        buffer[: len(data)] = data
        return len(data)

    def renew(self) -> None:
        """Count from here on."""
        self._left = self._most


class _Chained(_Reader):
    """Bytes that were read already, then the rest of their stream."""

    def __init__(self, head: bytes, stream: Stream) -> None:
        self._head, self._stream = head, stream

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        if not self._head:
            return self._stream.readinto(buffer)
        size = min(len(buffer), len(self._head))
        buffer[:size], self._head = self._head[:size], self._head[size:]
        return size


def is_remote(address: str) -> bool:
    """Whether an address is for `fsspec`."""
    return "://" in address


@contextmanager
def opened(address: str) -> Iterator[Stream]:
    """Open a file for reading; raise OSError here, Unreachable elsewhere."""
    raw = _Remote(address) if is_remote(address) else io.FileIO(address)
    with buffered(raw) as stream:
        yield stream


def buffered(raw: io.RawIOBase | BinaryIO) -> Stream:
    """Return a stream with a buffer large enough to look ahead in."""
    return io.BufferedReader(cast(io.RawIOBase, raw), BUFFER)


def pushed_back(head: bytes, stream: Stream) -> Stream:
    """Return the stream as it was before `head` was read from it."""
    return buffered(_Chained(head, stream))


_UNPACK: dict[str, Callable[[Stream], Any]] = {
    ".gz": lambda stream: gzip.GzipFile(fileobj=stream),
    ".zst": lambda stream: zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}
COMPRESSIONS = tuple(_UNPACK)


def unpacked(stream: Stream, compression: str) -> Stream:
    """Return the stream unpacked, for one of COMPRESSIONS; as it is for an empty string."""
    return buffered(_UNPACK[compression](stream)) if compression else stream


@contextmanager
def seekable(stream: Stream, most: int) -> Iterator[Stream]:
    """Yield a stream with the same bytes in which one can go back: a temporary file of at most `most` bytes.

    Raises TooMuch for more. What lies on a disk or a server is given as it is.
    """
    if isinstance(stream.raw, io.FileIO | _Remote):
        yield stream
        return
    with tempfile.TemporaryFile() as file:
        while chunk := stream.read(BUFFER):
            if file.tell() + len(chunk) > most:
                raise TooMuch(f"more than {most / MEGABYTE:.0f} MB when unpacked")
            file.write(chunk)
        file.seek(0)
        yield cast(Stream, file)


def most_unpacked(size: int) -> int:
    """Return how many bytes a file of `size` packed bytes may unpack to; small ones have no bound below 200 MB."""
    return MOST_DENSELY * (size + MEGABYTE)


def whole(stream: Stream, longest: int) -> bytes:
    """Return all bytes of a stream; raise TooMuch when they are more than `longest`."""
    data = stream.read(longest + 1)
    if len(data) > longest:
        raise TooMuch(f"longer than {longest / MEGABYTE:g} MB (max_document_mb)")
    return data


def lines(stream: Stream, longest: int) -> Lines:
    """Yield each line's length and bytes; a line over `longest` bytes is passed over in pieces and yields None."""
    while line := stream.readline(longest):
        if len(line) < longest or line.endswith(b"\n"):
            yield len(line), line
            continue
        length = len(line)
        while not line.endswith(b"\n") and (line := stream.readline(BUFFER)):
            length += len(line)
        yield length, None


def separated(stream: Stream, separator: bytes, longest: int, start: int = 0) -> Iterator[tuple[int, bytes | None]]:
    """Yield byte offset and bytes of each part between separators; None for one of more than `longest` bytes.

    Every occurrence of the separator ends a part, also one that overlaps another (three newlines are two blank lines),
    so that a file has the same parts from wherever one begins to read. With `start`, the stream has to stand
    `len(separator)` bytes before it, and the first part is the first that begins at `start` or later.
    """
    width = len(separator)
    buffer, base = b"", max(0, start - width)  # bytes in hand, and the offset of the first of them
    begin, scanned = (width - 1 if start else 0), 0  # in the buffer: where the part begins, where to search from
    origin = None if start else 0  # the part's offset; none before the first that counts
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
            if origin is not None and (lost or begin < len(buffer)):
                yield origin, None if lost or len(buffer) - begin > longest else buffer[begin:]
            return


def first_line(error: Exception) -> str:
    """Return an error's message, one line, without the path of a file, which is no part of what is read."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip() or error.__class__.__name__).split("\n")[0]
