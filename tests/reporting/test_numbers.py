"""Numbers, sizes and time spans as people read them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homegrown.reporting.numbers import count, duration, file_size, quantity, share, shown


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (83, "83 B"),
        (1_800, "1.8 kB"),
        (260_400, "260 kB"),
        (999_600, "1 MB"),
        (2_840_000, "2.84 MB"),
        (1_204_000_000, "1.2 GB"),
        (12e15, "12,000 TB"),
    ],
)
def test_a_size_has_three_digits_and_the_unit_that_fits(size: float, text: str) -> None:
    assert file_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0123, "12.3 ms"),
        (4.24, "4.2 s"),
        (42, "42 s"),
        (59.6, "1 min 00 s"),
        (754.2, "12 min 34 s"),
        (3599.7, "1 h 00 min"),
        (18_720, "5 h 12 min"),
        (172_800, "2 days"),
        (1e8, "3.17 years"),
    ],
)
def test_a_time_span_has_the_two_units_that_matter(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234, "1,234"), (-0.5, "−0.5"), (0.12346789, "0.1235"), (12345.6, "12,346"), ("final", "final"), (None, "")],
)
def test_a_figure_has_four_digits(value: float | str | None, text: str) -> None:
    assert shown(value) == text


def test_counts_and_shares() -> None:
    assert [count(number) for number in (999, 134_217_728, 2.2128e9)] == ["999", "134 M", "2.21 B"]
    assert [quantity(number, "documents") for number in (0, 1, 1234)] == [
        "0 documents",
        "1 document",
        "1,234 documents",
    ]
    assert [share(1, 3), share(0, 0)] == ["33.3%", "0%"]


_SECONDS = {"ms": 1e-3, "s": 1, "min": 60, "h": 3600, "days": 86400, "years": 365.25 * 86400}


@given(st.floats(1e-3, 1e10))
def test_a_time_span_reads_back_to_within_one_in_fifteen(seconds: float) -> None:
    parts = re.findall(r"([\d.e+]+) (ms|s|min|h|days|years)", duration(seconds))
    assert sum(float(number) * _SECONDS[unit] for number, unit in parts) == pytest.approx(seconds, rel=1 / 15)
