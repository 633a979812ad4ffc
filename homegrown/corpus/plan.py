"""How the work of ingest is cut into units: from names, sizes and footers, before any text is read."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from homegrown.corpus.records import MEGABYTE, Piece
from homegrown.corpus.text import Undecodable, encoding_of
from homegrown.corpus.units import Unit
from homegrown.recipe import AnySource, FilesSource, HubSource, IngestSettings, PackagesSource

_MODULES_BYTES = 1_000_000  # of source in one unit of packages; an eighth or so of it is documentation


def plan(source: AnySource, pieces: list[Piece], folder: Path, settings: IngestSettings) -> list[Unit]:
    """Return units of about a shard of input each, with folders in `folder`; large files are cut where they can be."""
    shard_bytes = int(settings.shard_mb * MEGABYTE)
    if isinstance(source, FilesSource):
        pieces = [part for piece in pieces for part in _cut(piece, shard_bytes)]
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
    """Put whole files together until they reach `size` bytes; a part of a file stays alone."""
    groups: list[tuple[Piece, ...]] = []
    group: tuple[Piece, ...] = ()
    taken = 0
    for piece in pieces:
        if piece.stop is not None or taken >= size:
            groups.append(group)
            group, taken = (), 0
        group += (piece,)
        taken = size if piece.stop is not None else taken + _bytes(piece.path)
    return [group for group in [*groups, group] if group]


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _cut(piece: Piece, size: int) -> Iterator[Piece]:
    """Yield JSON lines in byte ranges and Parquet in runs of row groups, of about `size` bytes, or the file whole."""
    total = _bytes(piece.path)
    name = piece.path.name.lower()
    if total > 2 * size and name.endswith(".jsonl") and _is_utf8(piece.path):
        bounds = [*range(0, total - size // 2, size), total]
    elif total > 2 * size and name.endswith(".parquet"):
        bounds = _row_group_bounds(piece.path, size)
    else:
        bounds = []
    if len(bounds) < 3:
        yield piece
    else:
        for start, stop in pairwise(bounds):
            yield Piece(piece.path, piece.locator, start, stop)


def _is_utf8(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            return encoding_of(file.read(65_536)) in ("utf-8", "utf-8-sig")
        except Undecodable:
            return False


def _row_group_bounds(path: Path, size: int) -> list[int]:
    """Return the first row group of each run, and the number of groups; nothing for a damaged file."""
    try:
        metadata = pq.read_metadata(path)
    except (pa.ArrowInvalid, OSError):
        return []
    bounds, taken = [0], 0
    for group in range(metadata.num_row_groups):
        if taken >= size:
            bounds.append(group)
            taken = 0
        taken += metadata.row_group(group).total_byte_size
    return [*bounds, metadata.num_row_groups]
