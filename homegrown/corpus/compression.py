"""Compressed streams that give everything before damage: gzip, zstd, bzip2, xz, each with several members."""

import bz2
import io
import lzma
import zlib
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import zstandard

_LARGEST_WINDOW = 1 << 31  # bytes; zstd --long=31


class Damaged(OSError):
    """Compressed data ends early or is invalid; the message says after how many decompressed bytes."""


class Ending(io.RawIOBase):
    """A raw stream that ends at Damaged, so that its readers keep what they have, and raises it at the next read."""

    def __init__(self) -> None:
        self._damage: Damaged | None = None
        self._has_ended = False

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Read into the buffer."""
        if self._damage and self._has_ended:
            raise self._damage
        try:
            size = self._fill(buffer)
        except Damaged as error:
            self._damage, size = error, 0
            if self._has_ended:
                raise
        self._has_ended = size == 0
        return size

    @abstractmethod
    def _fill(self, buffer: memoryview) -> int:
        """Read into the buffer; raise Damaged."""


@dataclass(frozen=True)
class _Format:
    decompressor: Callable[[], Any]  # of one member
    errors: type[Exception]
    padding: bytes  # allowed between members
    piece: int  # compressed bytes at once


# Pieces are so small that the densest data of each format decompresses to some tens of megabytes.
_FORMATS = {
    ".gz": _Format(lambda: zlib.decompressobj(31), zlib.error, b"\0", 1 << 14),
    ".zst": _Format(
        lambda: zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW).decompressobj(),
        zstandard.ZstdError,
        b"",
        1 << 11,
    ),
    ".bz2": _Format(bz2.BZ2Decompressor, OSError, b"", 1 << 10),
    ".xz": _Format(lzma.LZMADecompressor, lzma.LZMAError, b"\0", 1 << 10),
}
COMPRESSIONS = tuple(_FORMATS)


class Decompressed(Ending):
    """The decompressed bytes of a stream, all members one after the other."""

    def __init__(self, stream: Any, compression: str) -> None:
        super().__init__()
        self._stream, self._format = stream, _FORMATS[compression]
        self._member = self._format.decompressor()
        self._is_first = self._is_new = True  # the member; nothing of it was decompressed
        self._begin = self._place = 0  # in the compressed stream: start of the member, end of what was read
        self._input = self._output = b""
        self._size = 0
        self._found: Damaged | None = None
        self.invalid_member: int | None = None
        """Where the member with invalid data starts in the compressed stream."""

    def _fill(self, buffer: memoryview) -> int:
        filled = 0
        while filled < len(buffer) and (self._output or self._advance()):
            size = min(len(buffer) - filled, len(self._output))
            buffer[filled : filled + size], self._output = self._output[:size], self._output[size:]
            filled += size
        if self._found and not filled:
            raise self._found
        return filled

    def _advance(self) -> bool:
        """Decompress a piece; return False at the end."""
        if self._found or not self._find_input():
            return False
        piece, self._input = self._input, b""
        try:
            self._take(self._member.decompress(piece))
            self._is_new = False
            if self._member.eof:
                self._input = self._member.unused_data
                self._member, self._is_new, self._is_first = self._format.decompressor(), True, False
        except (self._format.errors, EOFError) as error:
            self.invalid_member = self._begin
            self._take(self._before_damage(piece))
            self._found = Damaged(f"the compressed data is invalid after {self._size:,} bytes of text ({error})")
        return True

    def _find_input(self) -> bool:
        """Read on to the next byte that is not padding between members; return False at the end."""
        while True:
            if self._is_new and not self._is_first:
                self._input = self._input.lstrip(self._format.padding)
            if self._input:
                if self._is_new:
                    self._begin = self._place - len(self._input)
                return True
            self._input = self._stream.read(self._format.piece)
            self._place += len(self._input)
            if not self._input:
                if not self._is_new:
                    self._found = Damaged(f"the compressed data ends early, after {self._size:,} bytes of text")
                return False

    def _take(self, output: bytes) -> None:
        self._output = output
        self._size += len(output)

    def _before_damage(self, piece: bytes) -> bytes:
        """Decompress the member again up to a damaged piece, and this byte by byte, where the stream allows it."""
        if not self._stream.seekable():
            return b""
        end = self._place - len(piece)
        self._stream.seek(self._begin)
        member, output = self._format.decompressor(), b""
        while (size := min(self._format.piece, end - self._begin)) > 0:
            self._begin += size
            member.decompress(self._stream.read(size))
        try:
            for place in range(len(piece)):
                output += member.decompress(piece[place : place + 1])
        except (self._format.errors, EOFError):
            pass
        return output
