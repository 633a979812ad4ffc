"""Records of readers: documents, and faults that go to quarantine with their reasons."""

import os
from dataclasses import dataclass, field

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Document:
    """A text as read, not yet cleaned; `position` counts rows, lines or documents of the file from 1.

    `replaced` counts the places with invalid bytes, each of which became U+FFFD. `url` is "" for none.
    """

    path: str
    position: int
    text: str
    replaced: int = 0
    url: str = ""


@dataclass(frozen=True)
class Fault:
    """Unreadable input; position 0 means the file itself."""

    path: str
    position: int
    reason: str


@dataclass(frozen=True)
class Piece:
    """A file, or a part of one: bytes `start` to `stop` of text, row groups of Parquet, a shard of a dataset.

    `address` is a local path or an fsspec address; `size` is that of the file, in bytes, `changed` the time of its last
    change or of that of its facts in nanoseconds, 0 if it is not known; `sha256` is that of the file, "" if not known.
    """

    address: str
    locator: str
    start: int = 0
    stop: int | None = None
    size: int = 0
    changed: int = 0
    sha256: str = ""


def last_change(status: os.stat_result) -> int:
    """Return the time of the last change of a file or of its facts, in nanoseconds: an edit can keep the former."""
    return max(status.st_mtime_ns, status.st_ctime_ns)


@dataclass
class Tally:
    """Counts of a reader, to be added over all pieces of a source."""

    lines: int = 0
    texts: int = 0  # rows or objects with the text column
    mismatch: str = ""  # a message about the first one without it
    skipped: dict[str, dict[str, int]] = field(default_factory=dict)  # by path and reason: what was not read

    def skip(self, path: str, reason: str) -> None:
        """Count a file, or a record of one, that was not read."""
        reasons = self.skipped.setdefault(path, {})
        reasons[reason] = reasons.get(reason, 0) + 1

    def include(self, other: "Tally") -> None:
        """Add the counts of a member of an archive."""
        self.texts += other.texts
        self.mismatch = self.mismatch or other.mismatch
        self.skipped |= other.skipped
