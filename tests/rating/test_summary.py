"""Summaries of ratings against published figures."""

import math

import numpy as np
import pyarrow as pa
import pytest

from homegrown.rating.ratings import CRITERIA, SCHEMA
from homegrown.rating.ratings_report import draw, html, table
from homegrown.rating.summary import ordinal_alpha, summarize


# The reliability data of Krippendorff (2011): four observers of twelve units; he gives alpha as .815 for ordinal data.
def _published() -> list[tuple[str, str, int]]:
    observers = (
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    )
    return [
        (str(observer), str(unit), int(score))
        for observer, scores in enumerate(observers)
        for unit, score in enumerate(scores.split())
        if score != "."
    ]


def test_alpha_is_the_published_one() -> None:
    assert ordinal_alpha(_published()) == pytest.approx(0.815, abs=5e-4)


def test_without_two_raters_or_two_scores_there_is_no_alpha() -> None:
    assert ordinal_alpha([("a", "1", 3), ("b", "2", 4)]) is None
    assert ordinal_alpha([("a", "1", 3), ("b", "1", 3)]) is None


def _answers(scores: dict[tuple[str, str], int], systems: dict[str, list[str]]) -> pa.Table:
    rows = [
        {"rater": rater, "item": item, "systems": systems[item], "prompt": "", "text": item, "coherence": score}
        for (rater, item), score in scores.items()
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def test_a_text_counts_once_however_many_rated_it() -> None:
    scores = {("a", "x"): 1, ("b", "x"): 3, ("a", "y"): 5}
    summary = summarize(_answers(scores, {"x": ["one"], "y": ["one", "two"]}))
    one = summary.means["one"]["coherence"]
    assert (one.mean, one.low, one.high, one.completions) == (3.5, 2, 5, 2)
    assert math.isnan(summary.means["two"]["coherence"].low)
    assert (summary.raters, summary.completions, summary.shared) == (2, 2, 1)


def test_the_interval_contains_the_true_mean_about_as_often_as_it_says() -> None:
    dice, inside = np.random.default_rng(7), 0
    for trial in range(200):
        drawn = dice.integers(1, 6, 40)
        scores = {("a", f"{trial}-{text}"): int(score) for text, score in enumerate(drawn)}
        mean = summarize(_answers(scores, {item: ["one"] for _, item in scores})).means["one"]["coherence"]
        inside += mean.low <= 3 <= mean.high
    assert 0.89 <= inside / 200 <= 0.99


def test_the_report_shows_every_system_and_escapes_its_name() -> None:
    scores = {("a", "x"): 2, ("b", "x"): 2, ("a", "y"): 4, ("b", "y"): 5}
    summary = summarize(_answers(scores, {"x": ["<one>"], "y": ["two"]}))
    made = table(summary)
    assert made.header[1:-1] == list(CRITERIA)
    assert [row[0].text for row in made.cells] == ["<one>", "two", "agreement (alpha)"]
    assert [row[1].text for row in made.cells[:2]] == ["2.00", "4.50"]
    assert "&lt;one&gt;" in html(summary)
    assert draw(summary).startswith(b"\x89PNG")
