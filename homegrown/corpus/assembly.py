"""Units of ingest assembled to its tables: shards of even size, limits applied, positions counted per file."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from homegrown.corpus.documents import SCHEMA
from homegrown.corpus.units import Summary, Unit, documents_of, rows_of
from homegrown.util.elsewhere import opened
from homegrown.util.files import write_parquet

_TABLE_ROWS = 1_000_000  # in one part


@dataclass(frozen=True)
class Rows:
    """Rows of a unit's file, and the shift of their positions."""

    path: Path
    first: int
    count: int
    shift: int


@dataclass(frozen=True)
class Shard:
    """A shard to write, and its rows in order."""

    path: Path
    rows: tuple[Rows, ...]


@dataclass(frozen=True)
class Kept:
    """The leading documents of a unit's file within the limit of the source: UTF-8 bytes of each, int64."""

    path: Path
    sizes: NDArray[np.int64]
    shift: int


def shifts(units: list[Unit], summaries: list[Summary]) -> list[int]:
    """Return how many lines of its file precede each unit; units number their lines from 1."""
    lines: dict[str, int] = {}
    result = []
    for unit, summary in zip(units, summaries, strict=True):
        piece = unit.pieces[0]
        before = lines.get(piece.locator, 0) if piece.start else 0
        result.append(before)
        lines[piece.locator] = before + summary.tallies[0].lines
    return result


def within_limit(units: list[Unit], shifted: list[int]) -> list[Kept]:
    """Return the documents of a source's units, in order, up to its limit. Memory: 8 bytes per document."""
    kept = []
    left = np.iinfo(np.int64).max if units[0].limit_bytes is None else units[0].limit_bytes
    for unit, shift in zip(units, shifted, strict=True):
        for path in documents_of(unit):
            sizes = pq.ParquetFile(opened(path)).read(["bytes"])["bytes"].to_numpy()
            count = int(np.searchsorted(np.cumsum(sizes), left, side="right"))
            kept.append(Kept(path, sizes[:count], shift))
            left -= int(sizes[:count].sum())
            if count < len(sizes):
                return kept
    return kept


def shards(folder: Path, kept: list[Kept], shard_bytes: int) -> list[Shard]:
    """Split documents into shards of even size, as close to `shard_bytes` of text as possible."""
    total = sum(int(file.sizes.sum()) for file in kept)
    count = max(1, round(total / shard_bytes))
    rows: dict[int, list[Rows]] = {}
    before = 0
    for file in kept:
        ends = before + np.cumsum(file.sizes)
        numbers, firsts, counts = np.unique((ends - file.sizes) * count // total, return_index=True, return_counts=True)
        for number, first, many in zip(numbers, firsts, counts, strict=True):
            rows.setdefault(int(number), []).append(Rows(file.path, int(first), int(many), file.shift))
        before += int(file.sizes.sum())
    return [Shard(folder / f"part-{i:05d}.parquet", tuple(rows[number])) for i, number in enumerate(sorted(rows))]


def write_shard(shard: Shard) -> None:
    """Write a shard of documents unless it exists."""
    if not shard.path.exists():
        tables = [
            _shifted(pq.read_table(rows.path, columns=SCHEMA.names).slice(rows.first, rows.count), rows.shift)
            for rows in shard.rows
        ]
        write_parquet(shard.path, pa.concat_tables(tables))


@dataclass(frozen=True)
class Table:
    """A table to write, and the files of its rows with the shift of their positions."""

    folder: Path
    rows: tuple[tuple[Path, int], ...]


def table_of(folder: Path, units: Iterable[tuple[Unit, int]]) -> Table:
    """Return the table of the units with their shifts."""
    return Table(folder, tuple((path, shift) for unit, shift in units for path in rows_of(unit, folder.name)))


def write_rows(table: Table, schema: pa.Schema) -> None:
    """Write a table; at least one part, so that the table can be queried."""
    folder, number = table.folder, 0
    tables = (_shifted(pq.read_table(path), shift) for path, shift in table.rows)
    batch = [schema.empty_table()]
    for table in tables:
        if sum(map(len, batch)) >= _TABLE_ROWS:
            write_parquet(folder / f"part-{number:05d}.parquet", pa.concat_tables(batch))
            number += 1
            batch = []
        batch.append(table)
    write_parquet(folder / f"part-{number:05d}.parquet", pa.concat_tables(batch))


def _shifted(table: pa.Table, shift: int) -> pa.Table:
    if not shift:
        return table
    return table.set_column(table.schema.get_field_index("position"), "position", pc.add(table["position"], shift))
