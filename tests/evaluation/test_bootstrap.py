"""Intervals against scipy's bootstrap and against known ones."""

import numpy as np
import pytest

from homegrown.evaluation.bootstrap import interval, mean_interval
from homegrown.evaluation.costs import Costs, in_words


def costs(seed: int, documents: int = 60, worse: float = 0.0) -> Costs:
    draws = np.random.default_rng(seed)
    sizes = draws.integers(50, 2000, documents)
    nats = sizes * draws.normal(1.2, 0.2, documents) * np.log(2)
    return Costs(nats + worse * sizes * np.log(2), sizes // 3, sizes)


def test_bits_per_byte_has_the_interval_of_scipy() -> None:
    from scipy import stats

    one = costs(1)
    found = one.interval(seed=5)
    expected = stats.bootstrap(
        (one.nats, one.bytes),
        lambda nats, sizes, axis: nats.sum(axis) / np.log(2) / sizes.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    width = expected.high - expected.low
    assert found.low == pytest.approx(expected.low, abs=0.1 * width)
    assert found.high == pytest.approx(expected.high, abs=0.1 * width)
    assert found.low < one.bits_per_byte < found.high


def test_a_mean_has_the_interval_of_its_standard_error() -> None:
    values = np.random.default_rng(3).normal(10, 2, 400)
    found = mean_interval(values, seed=1)
    error = 1.96 * values.std() / 20
    assert (found.low, found.high) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.05)


def test_the_same_seed_draws_the_same_documents_however_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = np.random.default_rng(4).normal(size=(30, 2))
    found = interval(columns, lambda sums: sums[:, 0], seed=9)
    monkeypatch.setattr("homegrown.evaluation.bootstrap._AT_ONCE", 100)
    assert interval(columns, lambda sums: sums[:, 0], seed=9) == found
    assert interval(columns, lambda sums: sums[:, 0], seed=8) != found


def test_pairing_finds_a_difference_that_single_intervals_hide() -> None:
    base, noise = costs(1), np.random.default_rng(2)
    nats = base.nats + base.bytes * np.log(2) * noise.normal(0.01, 0.01, len(base.bytes))
    worse = Costs(nats, base.tokens, base.bytes)
    difference, found = worse.above(base, seed=1)
    assert difference == pytest.approx(worse.bits_per_byte - base.bits_per_byte)
    assert found.is_significant and found.low < difference < found.high
    assert worse.interval(1).low < base.interval(1).high
    same, nothing = base.above(base, seed=1)
    assert (same, nothing.is_significant) == (0, False)


def test_few_documents_are_never_significant() -> None:
    for documents, significant in ((29, False), (30, True)):
        base = costs(1, documents)
        worse = Costs(base.nats * 1.1, base.tokens, base.bytes)
        difference, found = worse.above(base, seed=1)
        assert found.low > 0 and found.units == documents
        assert found.is_significant == found.negated.is_significant == significant
        sentence = in_words("One", "another", difference, found)
        assert ("29 documents are too few to call it significant" in sentence) != significant


def test_other_documents_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="other documents"):
        costs(1).above(costs(2), seed=1)


def test_one_document_has_no_interval() -> None:
    one = costs(1, documents=1)
    assert one.interval(seed=1) is None
    assert one.above(one, seed=1) == (0, None)
    assert mean_interval(np.array([3.5]), seed=1) is None
    of_many = Costs(*(np.concatenate([part, np.zeros(9, part.dtype)]) for part in (one.nats, one.tokens, one.bytes)))
    assert of_many.interval(seed=1) is None  # nine documents of which nothing was predicted
    assert costs(1, documents=2).interval(seed=1) is not None
