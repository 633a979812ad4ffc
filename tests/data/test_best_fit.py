"""Best-fit-decreasing compared with the textbook loop, and the invariants of a layout."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homegrown.data.best_fit import MOST_PADDING, Pieces, best_fit, lay_out


@st.composite
def pieces_and_capacity(draw: st.DrawFn) -> tuple[list[int], int]:
    capacity = draw(st.integers(1, 60))
    return draw(st.lists(st.integers(1, capacity), min_size=1, max_size=120)), capacity


@given(case=pieces_and_capacity())
def test_each_piece_goes_where_it_leaves_the_least_space(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    rows = best_fit(np.array(lengths), capacity)
    spaces: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [space for space in spaces if space >= length]
        if fitting:
            spaces.remove(min(fitting))
            spaces.append(min(fitting) - length)
        else:
            spaces.append(capacity - length)
    assert sorted(capacity - np.bincount(rows, weights=lengths)) == sorted(spaces)


def check(lengths: np.ndarray, capacity: int) -> Pieces:
    """Every element once, no row over its capacity, at most 1% padding or less than a row."""
    pieces = lay_out(lengths, capacity)
    rows = int(pieces.row.max()) + 1
    filled = np.bincount(pieces.row, weights=pieces.length)
    assert (np.diff(pieces.row) >= 0).all()
    assert pieces.length.min() >= 1
    assert 1 <= filled.min() <= filled.max() <= capacity
    order = np.lexsort((pieces.start, pieces.document))
    document, start, length = pieces.document[order], pieces.start[order], pieces.length[order]
    first = np.flatnonzero(np.diff(document, prepend=-1))
    assert document[first].tolist() == list(range(len(lengths)))
    assert (start[first] == 0).all()
    goes_on = np.setdiff1d(np.arange(len(document)), first)
    assert (start[goes_on] == start[goes_on - 1] + length[goes_on - 1]).all()
    assert (np.add.reduceat(length, first) == lengths).all()
    padding = rows * capacity - lengths.sum()
    assert padding <= max(MOST_PADDING * rows * capacity, capacity - 1)
    return pieces


@settings(max_examples=300)
@given(lengths=st.lists(st.integers(1, 400), min_size=1, max_size=150), capacity=st.integers(1, 130))
def test_every_token_once_and_at_most_one_percent_padding(lengths: list[int], capacity: int) -> None:
    check(np.array(lengths), capacity)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    median=st.integers(20, 3000),
    spread=st.floats(0.8, 1.5),
    capacity=st.sampled_from([256, 512, 1024, 2048]),
)
def test_typical_documents_are_rarely_cut(seed: int, median: int, spread: float, capacity: int) -> None:
    """Lengths of documents are about log-normal; only those longer than a row are cut, if there are many."""
    dice = random.Random(seed)
    lengths = np.array([max(1, round(dice.lognormvariate(np.log(median), spread))) for _ in range(3000)])
    pieces = check(lengths, capacity)
    needless = len(pieces.row) - int((-(-lengths // capacity)).sum())
    assert needless <= 0.01 * len(lengths)


@pytest.mark.parametrize("capacity", [10, 256, 1000])
def test_documents_that_fill_no_row_are_cut(capacity: int) -> None:
    lengths = np.full(2000, capacity * 6 // 10)
    assert len(check(lengths, capacity).row) > 2000


def test_long_documents_are_cut_into_full_rows_and_a_rest() -> None:
    pieces = check(np.array([25, 5]), 10)
    assert list(zip(pieces.document.tolist(), pieces.start.tolist(), pieces.length.tolist(), strict=True)) == [
        (0, 0, 10),
        (0, 10, 10),
        (0, 20, 5),
        (1, 0, 5),
    ]
