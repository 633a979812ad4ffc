"""Signatures and shingles of documents in files that any worker reads by row: one set of files per shard."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from homegrown.corpus.compiled import compiled
from homegrown.corpus.lsh import Documents
from homegrown.corpus.minhash import Sets
from homegrown.util.elsewhere import noted, ranges
from homegrown.util.files import replacing

Number = TypeVar("Number", np.uint32, np.int64)


class Sketched(NamedTuple):
    """The files of a shard: signatures (uint32), and shingles with their starts if they are compared."""

    signatures: Path
    shingles: Path | None
    starts: Path | None

    @property
    def complete(self) -> bool:
        """Return whether all files exist; the signatures are written last."""
        return self.signatures.exists()


def sketched(folder: Path, name: str, with_shingles: bool) -> Sketched:
    """Return the paths of a shard's files."""
    shingles, starts = (folder / f"{name}.{kind}" if with_shingles else None for kind in ("shingles", "starts"))
    return Sketched(folder / f"{name}.signatures", shingles, starts)


class Writer:
    """Collects the sketches of a shard; shingles go to the file at once."""

    def __init__(self, shingles: BinaryIO | None) -> None:
        self.signatures: list[NDArray[np.uint32]] = []
        self.counts = [np.zeros(1, np.int64)]
        self._shingles = shingles

    def add(self, signatures: NDArray[np.uint32], sets: Sets | None) -> None:
        """Add some documents."""
        self.signatures.append(signatures)
        if self._shingles and sets:
            self._shingles.write(sets.shingles.tobytes())
            self.counts.append(np.diff(sets.starts))


@contextmanager
def written(files: Sketched) -> Iterator[Writer]:
    """Yield a writer of a shard's files."""
    if files.shingles is None or files.starts is None:
        yield (writer := Writer(None))
    else:
        with replacing(files.shingles, scratch=True) as temporary, temporary.open("wb") as stream:
            yield (writer := Writer(stream))
        with replacing(files.starts, scratch=True) as temporary:
            np.cumsum(np.concatenate(writer.counts)).tofile(temporary)
    with replacing(files.signatures, scratch=True) as temporary, temporary.open("wb") as stream:
        for signatures in writer.signatures:
            stream.write(signatures.tobytes())


def fetch(parts: tuple[Sketched, ...], firsts: tuple[int, ...], places: NDArray[np.int64], size: int) -> Documents:
    """Return the sketches of documents at ascending `places`; `firsts` has the place of each shard's first row."""
    numbers = np.searchsorted(np.array(firsts), places, side="right") - 1
    signatures = np.empty((len(places), size), np.uint32)
    counts, shingles = [np.zeros(1, np.int64)], [np.empty(0, np.uint32)]
    for number in np.unique(numbers).tolist():
        own = np.flatnonzero(numbers == number)
        rows = places[own] - firsts[number]
        files = parts[number]
        signatures[own] = _rows(files.signatures, np.uint32, size, rows)
        if files.shingles is not None and files.starts is not None:
            ends = np.unique(np.concatenate([rows, rows + 1]))
            starts = _rows(files.starts, np.int64, 1, ends)[:, 0]
            begins, stops = (starts[np.searchsorted(ends, edge)] for edge in (rows, rows + 1))
            counts.append(stops - begins)
            shingles.append(_values(files.shingles, begins, stops))
    compared = parts[0].shingles is not None
    return Documents(
        signatures, np.concatenate(shingles), np.cumsum(np.concatenate(counts)) if compared else np.empty(0, np.int64)
    )


def signatures_of(files: Sketched, size: int) -> NDArray[np.uint32]:
    """Return all signatures of a shard."""
    if files.signatures.exists():
        return np.fromfile(files.signatures, np.uint32).reshape(-1, size)
    there = noted(files.signatures)
    ends = np.array([there.bytes if there else 0])
    return np.frombuffer(ranges(files.signatures, ends * 0, ends), np.uint32).reshape(-1, size)


def _rows(path: Path, kind: type[Number], size: int, rows: NDArray[np.int64]) -> NDArray[Number]:
    """Return some rows of a file, ascending."""
    if path.exists():
        return np.asarray(np.memmap(path, kind, "r")).reshape(-1, size)[rows]
    width = size * np.dtype(kind).itemsize
    return np.frombuffer(ranges(path, rows * width, (rows + 1) * width), kind).reshape(-1, size)


def _values(path: Path, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Return the values of a file from each of `begins` to its end."""
    if not (total := int((ends - begins).sum())):
        return np.empty(0, np.uint32)
    if path.exists():
        return _gathered(np.asarray(np.memmap(path, np.uint32, "c")), begins, ends, total)
    return np.frombuffer(ranges(path, 4 * begins, 4 * ends), np.uint32)


@compiled
def _gathered(
    values: NDArray[np.uint32], begins: NDArray[np.int64], ends: NDArray[np.int64], total: int
) -> NDArray[np.uint32]:
    result = np.empty(total, np.uint32)
    place = 0
    for i in range(begins.size):
        for j in range(begins[i], ends[i]):
            result[place] = values[j]
            place += 1
    return result
