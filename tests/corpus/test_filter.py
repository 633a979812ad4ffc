"""Rules against values worked by hand and plain Python; the stage's tables."""

import unicodedata
from collections import Counter
from concurrent.futures import Executor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homegrown.corpus.filter import filter_documents
from homegrown.corpus.rules import MEASURES, measure
from homegrown.errors import UserError
from homegrown.recipe import FilterSettings
from tests.corpus.made_up import digests, rows_of, write_documents

LAX = {
    "min_characters": 0,
    "max_characters": 10**9,
    "min_alphabetic_share": 0,
    "max_duplicate_line_share": 1,
    "max_top_bigram_share": 1,
}


def by_python(text: str) -> list[float]:
    letters = [unicodedata.category(c)[0] == "L" for c in text if not c.isspace()]
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    bigrams = Counter(" ".join(pair) for pair in pairwise(text.split()))
    top, count = bigrams.most_common(1)[0] if bigrams else ("", 0)
    return [
        len(text),
        sum(letters) / max(1, len(letters)),
        (len(lines) - len(set(lines))) / max(1, len(lines)),
        len(top) * count / max(1, len(text)),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [0, 0, 0, 0]),
        ("ab 12", [5, 2 / 4, 0, 5 / 5]),
        ("Ünï-cödé 漢字!", [12, 9 / 11, 0, 12 / 12]),
        ("a b\n a b \nc\n\n\na b", [17, 1, 2 / 4, 3 * 3 / 17]),  # lines a b, a b, c, a b; 2-gram "a b" three times
        ("to be or not to be", [18, 1, 0, 5 * 2 / 18]),
        ("x  y z\u3000w", [8, 1, 0, 3 / 8]),  # of equally common ones the first: "x y"
    ],
)
def test_measures_have_the_values_worked_by_hand(text: str, expected: list[float]) -> None:
    found = measure(pa.array([text]))
    assert [found[name][0] for name in MEASURES] == pytest.approx(expected)


@given(
    st.lists(st.text(st.sampled_from("ab \n\tÜ漢\u2003!1\U0001f600\U000e0100"), max_size=80), min_size=1, max_size=5)
)
def test_measures_agree_with_plain_python(texts: list[str]) -> None:
    found = measure(pa.array(["skipped", *texts])[1:])
    np.testing.assert_allclose(np.array([found[name] for name in MEASURES]).T, [by_python(text) for text in texts])


def test_each_rule_drops_what_is_beyond_its_threshold_and_says_why(tmp_path: Path, executor: Executor) -> None:
    texts = {
        "min_characters": "too short",
        "max_characters": "long words follow one another here " * 3 + "and never come to an end",
        "min_alphabetic_share": "1234567890 + 1234 = abc, 99",
        "max_duplicate_line_share": "one line\nanother\none line\none line",
        "max_top_bigram_share": "la la la la la la la la la",
        "": "a text of good length and kind",
    }
    rules = FilterSettings(
        min_characters=20,
        max_characters=100,
        min_alphabetic_share=0.6,
        max_duplicate_line_share=0.3,
        max_top_bigram_share=0.3,
    )
    write_documents(tmp_path / "in", list(texts.values()), rows=4)
    outcome = filter_documents(tmp_path / "out", tmp_path / "in", rules, executor=executor)
    ids = {row["text"]: row["id"] for row in rows_of(tmp_path / "in" / "documents")}
    dropped = {row["rule"]: row for row in rows_of(tmp_path / "out" / "dropped")}
    assert {rule: row["id"] for rule, row in dropped.items()} == {
        rule: ids[text] for rule, text in texts.items() if rule
    }
    assert [row["text"] for row in rows_of(tmp_path / "out" / "documents")] == [texts[""]]
    assert {rule: (row["value"], row["threshold"]) for rule, row in dropped.items()} == {
        "min_characters": (9, 20),
        "max_characters": (129, 100),
        "min_alphabetic_share": (pytest.approx(3 / 22), 0.6),
        "max_duplicate_line_share": (0.5, 0.3),
        "max_top_bigram_share": (pytest.approx(5 * 8 / 26), 0.3),
    }
    assert dropped["max_characters"]["text_start"] == texts["max_characters"][:200]
    assert outcome.rows_in == 6 and outcome.rows_out == 1
    assert [outcome.metrics[f"dropped_{rule}"] for rule in texts if rule] == [1] * 5
    before = digests(tmp_path / "out")
    assert filter_documents(tmp_path / "out", tmp_path / "in", rules, executor=executor) == outcome
    assert digests(tmp_path / "out") == before


def test_a_value_at_its_threshold_passes(tmp_path: Path, executor: Executor) -> None:
    write_documents(tmp_path / "in", ["abcde fghi"])
    rules = FilterSettings.model_validate(LAX | {"min_characters": 10, "max_characters": 10, "min_alphabetic_share": 1})
    assert filter_documents(tmp_path / "out", tmp_path / "in", rules, executor=executor).rows_out == 1


def test_languages_are_told_apart_and_unknown_ones_refused(tmp_path: Path, executor: Executor) -> None:
    texts = [
        "All human beings are born free and equal in dignity and rights, and should act in a spirit of brotherhood.",
        "Alle Menschen sind frei und gleich an Würde und Rechten geboren; sie sind mit Vernunft und Gewissen begabt.",
        "Все люди рождаются свободными и равными в своем достоинстве и правах; они наделены разумом и совестью.",
    ]
    write_documents(tmp_path / "in", texts)
    rules = FilterSettings.model_validate(LAX | {"languages": ["de", "ru"]})
    filter_documents(tmp_path / "out", tmp_path / "in", rules, executor=executor)
    assert [row["text"] for row in rows_of(tmp_path / "out" / "documents")] == texts[1:]
    (dropped,) = rows_of(tmp_path / "out" / "dropped")
    assert dropped["rule"] == "languages" and dropped["value"] < dropped["threshold"] <= 1
    wrong = FilterSettings.model_validate(LAX | {"languages": ["de", "klingon"]})
    with pytest.raises(UserError, match=r"filter\.languages: unknown code klingon"):
        filter_documents(tmp_path / "wrong", tmp_path / "in", wrong, executor=executor)
