"""A file as input of a reader."""

from dataclasses import dataclass

from homegrown.config.corpus import FilesSource
from homegrown.corpus import encodings
from homegrown.corpus.records import Document, Fault, Piece, Tally
from homegrown.corpus.streams import Stream

LONGEST_URL = 8_192  # characters; a longer one counts as none


@dataclass(frozen=True)
class File:
    """A file, a part of one or a member of an archive: its decompressed bytes, and how to read them.

    `longest` limits a document in bytes. A reader counts its records in `tally.lines`, the position of the current
    one.
    """

    piece: Piece
    stream: Stream
    source: FilesSource
    longest: int
    tally: Tally
    is_decompressed: bool = False

    def next(self) -> int:
        """Count one more record and return its position."""
        self.tally.lines += 1
        return self.tally.lines

    def utf8(self, declared: str | None = None) -> Stream:
        """Return the stream as UTF-8 without a byte order mark; raise Undecodable."""
        return encodings.as_utf8(self.stream, declared, self.source.encoding, is_part=self.piece.stop is not None)

    def decode(self, data: bytes, declared: str | None = None) -> tuple[str, int]:
        """Return bytes as text, and the number of places with invalid ones; raise Undecodable."""
        return encodings.decode(data, declared, self.source.encoding)

    def document(self, text: str, replaced: int = 0, url: str = "") -> Document | Fault:
        """Return a document at the current position; a fault if too much of it had invalid bytes."""
        return document(self.piece.locator, self.tally.lines, text, replaced, url)

    def fault(self, reason: str) -> Fault:
        """Return a fault at the current position: 0 before the first record, which means the file itself."""
        return Fault(self.piece.locator, self.tally.lines, reason)

    def has_no_text(self, reason: str, message: str) -> Fault:
        """Return a fault for a row or table without the text column; `message` is for a source without it."""
        self.tally.mismatch = self.tally.mismatch or message
        return self.fault(reason)


def document(locator: str, position: int, text: str, replaced: int, url: str = "") -> Document | Fault:
    """Return a document, or a fault if invalid bytes were replaced in too much of its text."""
    if replaced > encodings.MOST_REPLACED * len(text):
        return Fault(locator, position, f"invalid bytes at {replaced} of {len(text):,} characters")
    url = url.encode(errors="replace").decode() if len(url) <= LONGEST_URL else ""
    return Document(locator, position, text, replaced, url)
