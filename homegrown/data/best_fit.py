"""Packing documents into rows of equal length with little padding: best-fit-decreasing (Johnson 1973)."""

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]

MOST_PADDING = 0.01
"""Maximum share of padding before documents are cut to fill rows."""


@dataclass(frozen=True)
class Pieces:
    """The position of each piece of each document: int64 [pieces] each, ordered by row.

    A piece is `length` elements of `document` from its element `start` on. Each element is in exactly one piece, and
    the pieces of a row never exceed its capacity.
    """

    row: Numbers
    document: Numbers
    start: Numbers
    length: Numbers


def lay_out(lengths: Numbers, capacity: int) -> Pieces:
    """Lay out documents of `lengths` (int64 [documents], each at least 1) in rows of `capacity`.

    A longer document is cut into full rows and a remainder, which is packed like a short document. If padding exceeds
    `MOST_PADDING`, as where all documents are slightly longer than half a row, the emptiest rows are removed and their
    pieces are cut to fill the others. So padding is at most that share, or less than one row.
    """
    count = -(-lengths // capacity)
    document = np.repeat(np.arange(len(lengths)), count)
    start = (np.arange(len(document)) - np.repeat(np.cumsum(count) - count, count)) * capacity
    length = np.minimum(lengths[document] - start, capacity)
    pieces = _fill(Pieces(best_fit(length, capacity), document, start, length), capacity)
    order = np.argsort(pieces.row, kind="stable")
    return Pieces(pieces.row[order], pieces.document[order], pieces.start[order], pieces.length[order])


def lay_out_whole(lengths: Numbers, capacity: int) -> Pieces:
    """Lay out documents of `lengths` (int64 [documents], each in 1 … capacity) without cutting any."""
    row = best_fit(lengths, capacity)
    order = np.argsort(row, kind="stable")
    return Pieces(row[order], order, np.zeros_like(lengths), lengths[order])


def best_fit(lengths: Numbers, capacity: int) -> Numbers:
    """Return the row (int64 [pieces], from 0) of each piece: longest first, each where it leaves the least space.

    Equal pieces and rows with equal space are processed together, so the time depends on the number of different
    lengths, not of pieces. Lengths must be in 1 … capacity.
    """
    rows = np.empty(len(lengths), dtype=np.int64)
    short = np.min_scalar_type(capacity)  # NumPy sorts 16-bit integers by counting
    order = np.argsort((capacity - lengths).astype(short), kind="stable")
    counts = np.bincount(lengths)
    different = np.flatnonzero(counts)
    spaces = _Spaces(capacity)
    first = 0
    for length, count in zip(different[::-1].tolist(), counts[different][::-1].tolist(), strict=True):
        left = count
        while left:
            space = spaces.tightest(length)
            each = space // length  # the tightest row stays the tightest while another piece fits
            taken = spaces.take(space, -(-left // each))
            fitting = min(left, each * len(taken))
            rows[order[first : first + fitting]] = np.repeat(taken, each)[:fitting]
            full, rest = divmod(fitting, each)
            spaces.put(space - each * length, taken[:full])
            spaces.put(space - rest * length, taken[full:])
            first, left = first + fitting, left - fitting
    return rows


class _Spaces:
    """Rows with free space, grouped by that space; a new row is opened if none has enough."""

    def __init__(self, capacity: int):
        self._capacity = capacity
        self._opened = 0
        self._sizes: list[int] = []  # free spaces that rows have, ascending
        self._rows: dict[int, list[Numbers]] = {}

    def tightest(self, length: int) -> int:
        """Return the least space of a row that has `length` or more."""
        place = bisect_left(self._sizes, length)
        return self._sizes[place] if place < len(self._sizes) else self._capacity

    def take(self, space: int, most: int) -> Numbers:
        """Remove and return 1 to `most` rows with this space."""
        if space == self._capacity:
            self._opened += most
            return np.arange(self._opened - most, self._opened)
        chunks = self._rows[space]
        rows = chunks.pop()
        if len(rows) > most:
            chunks.append(rows[most:])
        if not chunks:
            self._sizes.remove(space)
        return rows[:most]

    def put(self, space: int, rows: Numbers) -> None:
        """Return rows with their new space."""
        if not space or not len(rows):
            return
        chunks = self._rows.setdefault(space, [])
        if not chunks:
            insort(self._sizes, space)
        chunks.append(rows)


def _fill(pieces: Pieces, capacity: int) -> Pieces:
    """If there is too much padding, remove the emptiest rows and cut their pieces to fill the others."""
    total, rows = int(pieces.length.sum()), int(pieces.row.max(initial=-1)) + 1
    fewest = -(-total // capacity)
    enough = max(fewest, int(total / (1 - MOST_PADDING) / capacity))
    if rows <= enough:
        return pieces
    filled = np.bincount(pieces.row, weights=pieces.length).astype(np.int64)
    by_filling = np.argsort(-filled, kind="stable")
    number = np.full(rows, -1)
    number[by_filling[:enough]] = np.arange(enough)
    row = number[pieces.row]
    poured = np.flatnonzero(row < 0)
    # Lay the pieces end to end, and beside them the gaps, largest first; cut where either ends.
    gaps = np.argsort(filled[by_filling[:enough]], kind="stable")
    piece_ends = np.cumsum(pieces.length[poured])
    gap_ends = np.cumsum(capacity - filled[by_filling[:enough]][gaps])
    ends = np.union1d(piece_ends, gap_ends[gap_ends < piece_ends[-1]])
    begins = np.concatenate([[0], ends[:-1]])
    within = np.searchsorted(piece_ends, begins, side="right")
    origin = poured[within]
    into = gaps[np.searchsorted(gap_ends, begins, side="right")]
    offset = begins - (piece_ends - pieces.length[poured])[within]
    kept = row >= 0
    return Pieces(
        np.concatenate([row[kept], into]),
        np.concatenate([pieces.document[kept], pieces.document[origin]]),
        np.concatenate([pieces.start[kept], pieces.start[origin] + offset]),
        np.concatenate([pieces.length[kept], ends - begins]),
    )
