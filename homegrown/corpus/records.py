"""What a reader yields: a document, or a fault that goes to quarantine with its reason."""

from dataclasses import dataclass
from pathlib import Path

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
    """A file, or a part of one: bytes `start` to `stop` of JSON lines, row groups of Parquet, a shard of a dataset."""

    path: Path
    locator: str
    start: int = 0
    stop: int | None = None


@dataclass
class Tally:
    """What a reader counted on the way, to be put together over all pieces of a file."""

    lines: int = 0
    objects: int = 0
    with_text: int = 0
    keys: tuple[str, ...] = ()  # of the first object without the text
