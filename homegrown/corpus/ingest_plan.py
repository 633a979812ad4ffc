"""The units of ingest's work, from names, sizes and footers before any text is read."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from homegrown.config.corpus import AnySource, FilesSource, HubSource, IngestSettings, PackagesSource
from homegrown.corpus.encodings import SAMPLE, Undecodable, is_utf8
from homegrown.corpus.readers.formats import PLAIN, form
from homegrown.corpus.records import MEGABYTE, Piece
from homegrown.corpus.streams import Unreachable, opened
from homegrown.corpus.units import Unit

_CONTINUING = bytes(range(0x80, 0xC0))  # bytes of a character that another part starts
_MOST_FILES = 500  # of a unit: thousands of small files are read by several workers, and progress is seen
_MODULES_BYTES = 1_000_000  # of source per unit of packages; about an eighth of it is documentation


def plan(source: AnySource, pieces: list[Piece], folder: Path, settings: IngestSettings) -> list[Unit]:
    """Return units of about a shard of input each, with folders in `folder`; large files are split if possible."""
    shard_bytes = int(settings.shard_mb * MEGABYTE)
    if isinstance(source, FilesSource):
        pieces = [part for piece in pieces for part in _cut(piece, shard_bytes, source)]
    groups = _groups(pieces, _MODULES_BYTES if isinstance(source, PackagesSource) else shard_bytes)
    if isinstance(source, HubSource):
        groups = [(piece,) for piece in pieces]
    return [
        Unit(
            folder=folder / f"{number:06d}",
            source=source,
            pieces=group,
            longest=int(settings.max_document_mb * MEGABYTE),
            shard_bytes=shard_bytes,
            limit_bytes=None if source.limit_mb is None else int(source.limit_mb * MEGABYTE),
        )
        for number, group in enumerate(groups)
    ]


def _groups(pieces: list[Piece], size: int) -> list[tuple[Piece, ...]]:
    """Group complete files up to `size` bytes and `_MOST_FILES`; a part of a file is a group of its own."""
    groups: list[tuple[Piece, ...]] = []
    group: tuple[Piece, ...] = ()
    taken = 0
    for piece in pieces:
        if piece.stop is not None or taken >= size or len(group) >= _MOST_FILES:
            groups.append(group)
            group, taken = (), 0
        group += (piece,)
        taken = size if piece.stop is not None else taken + piece.size
    return [group for group in [*groups, group] if group]


def _cut(piece: Piece, size: int, source: FilesSource) -> Iterator[Piece]:
    """Yield parts of about `size` bytes: ranges of text and JSON lines, row groups of Parquet; else the file."""
    bounds: list[int] = []
    if piece.size > 2 * size:
        ending, compression = form(piece.locator)
        has_parts = ending in (".jsonl", ".ndjson") or (ending in PLAIN and source.separator)
        if has_parts and not compression:
            bounds = [*range(0, piece.size - size // 2, size), piece.size]
            bounds = bounds if _is_utf8(piece, bounds[:-1], source.encoding) else []
        elif ending == ".parquet" and not compression:
            bounds = _row_group_bounds(piece, size)
    if len(bounds) < 3:
        yield piece
    else:
        for start, stop in pairwise(bounds):
            yield replace(piece, start=start, stop=stop)


def _is_utf8(piece: Piece, bounds: list[int], encoding: str | None) -> bool:
    """Return whether a file is UTF-8 where parts start; False also if it is unreadable, which its reader reports."""
    try:
        with opened(piece.address) as file:
            for bound in bounds:
                file.seek(bound)
                if not is_utf8(file.read(SAMPLE).lstrip(_CONTINUING), encoding):
                    return False
            return True
    except (Undecodable, Unreachable, OSError):
        return False


def _row_group_bounds(piece: Piece, size: int) -> list[int]:
    """Return the first row group of each part, and the number of groups; nothing for a damaged file."""
    try:
        with opened(piece.address) as file:
            metadata = pq.read_metadata(file)
    except (pa.ArrowException, Unreachable, OSError):
        return []
    bounds, taken = [0], 0
    for group in range(metadata.num_row_groups):
        if taken >= size:
            bounds.append(group)
            taken = 0
        taken += metadata.row_group(group).total_byte_size
    return [*bounds, metadata.num_row_groups]
