"""A file as the reader of its format gets it."""

from dataclasses import dataclass

from homegrown.config.recipe import FilesSource
from homegrown.corpus.records import Document, Fault, Piece, Tally
from homegrown.corpus.streams import Stream


@dataclass(frozen=True)
class File:
    """A file, a part of one or a member of an archive: its unpacked bytes, and how they are to be read.

    `longest` bounds a document in bytes. A reader counts what it reads in `tally.lines`, and that is the position of
    its next record.
    """

    piece: Piece
    stream: Stream
    source: FilesSource
    longest: int
    tally: Tally

    def next(self) -> int:
        """Count one more record and return its position."""
        self.tally.lines += 1
        return self.tally.lines

    def document(self, text: str) -> Document:
        """Return a document at the present position."""
        return Document(self.piece.locator, self.tally.lines, text)

    def fault(self, reason: str) -> Fault:
        """Return a fault at the present position: 0 before the first record, which means the whole file."""
        return Fault(self.piece.locator, self.tally.lines, reason)

    def has_no_text(self, reason: str, sentence: str) -> Fault:
        """Return a fault for a row or table without the text's column; `sentence` says so when there is no other."""
        self.tally.mismatch = self.tally.mismatch or sentence
        return self.fault(reason)
