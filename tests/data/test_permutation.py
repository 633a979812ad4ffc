"""The permutation: each index once, evenly spread over seeds, the same for ever."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from homegrown.data.permutation import Permutation


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**63 - 1))
def test_each_index_once(size: int, seed: int) -> None:
    assert sorted(Permutation(size, seed)(np.arange(size)).tolist()) == list(range(size))


def test_every_index_is_equally_likely_at_a_place() -> None:
    size, seeds = 12, 6000
    drawn = np.array([Permutation(size, seed)(np.arange(size)) for seed in range(seeds)])
    for place in range(size):
        counts = np.bincount(drawn[:, place], minlength=size)
        chi_squared = ((counts - seeds / size) ** 2 / (seeds / size)).sum()
        assert chi_squared < 45  # 11 degrees of freedom: beyond it one time in 200,000


def test_neighbours_are_not_kept_together() -> None:
    size = 10_000
    order = Permutation(size, 5)(np.arange(size))
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05


def test_a_huge_range_needs_no_memory() -> None:
    indices = Permutation(10**15, 1)(np.arange(1000))
    assert len(set(indices.tolist())) == 1000
    assert 0 <= indices.min() < indices.max() < 10**15
