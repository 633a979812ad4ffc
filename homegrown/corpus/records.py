"""What a reader yields: a document, or a fault that goes to quarantine with its reason."""

from dataclasses import dataclass

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Document:
    """A text as it was read, not yet cleaned; `position` counts rows, lines or documents of the file from 1."""

    path: str
    position: int
    text: str


@dataclass(frozen=True)
class Fault:
    """Something that could not be read; position 0 means the whole file."""

    path: str
    position: int
    reason: str


@dataclass(frozen=True)
class Piece:
    """A file, or a part of one: bytes `start` to `stop` of text, row groups of Parquet, a shard of a dataset.

    `address` is a path on this machine or what `fsspec` opens; `size` is in bytes, of the whole file.
    """

    address: str
    locator: str
    start: int = 0
    stop: int | None = None
    size: int = 0


@dataclass
class Tally:
    """What a reader counted on the way, to be put together over all pieces of a source."""

    lines: int = 0
    texts: int = 0  # rows or objects that had the text's column
    mismatch: str = ""  # a sentence about the first that had not
    skipped: int = 0  # members of archives in no format that is read

    def include(self, other: "Tally") -> None:
        """Take in what was counted in a member of an archive."""
        self.texts += other.texts
        self.mismatch = self.mismatch or other.mismatch
        self.skipped += other.skipped
