"""Each published rule against values worked out by hand, plain Python, and datatrove's own filters."""

from collections import Counter
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import peers
from homegrown.config.filter import C4, FilterSettings, FineWeb, GopherQuality, GopherRepetition
from homegrown.corpus.quality import c4, signals
from homegrown.corpus.quality.rules import SETS, failures, measures, rules
from homegrown.corpus.quality.texts import Lined, lined, split_lines, take_apart
from tests.corpus.made_up import sentence

ALL = FilterSettings(
    min_characters=0,
    max_characters=10**9,
    min_alphabetic_share=None,
    gopher_quality=GopherQuality(),
    gopher_repetition=GopherRepetition(),
    c4=C4(),
    fineweb=FineWeb(),
)
WITHOUT_C4 = ALL.model_copy(update={"c4": None})


def measured(text: str, settings: FilterSettings = WITHOUT_C4) -> dict[str, Any]:
    table, _ = signals.measure(pa.array(["skipped", "x"])[1:], pa.array(["before", text])[1:], settings)
    row: dict[str, Any] = table.to_pylist()[0]
    return row


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (0, 0)),
        ("ab 12", (5, 2 / 4)),
        ("Ünï-cödé 漢字!", (12, 9 / 11)),
        ("\U0001f600\u3000x\U000e0100", (4, 1 / 3)),
    ],
)
def test_basic_measures(text: str, expected: tuple[float, float]) -> None:
    row = measured(text)
    assert (row["characters"], row["alphabetic_share"]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {"words": 0, "mean_word_length": 0, "bullet_lines": 0, "stop_words": 0, "alphabetic_words": 0}),
        ("the cat - and THE dog, 42", {"words": 6, "mean_word_length": (3 + 3 + 3 + 3 + 4 + 2) / 6}),
        ("the cat - and THE dog, 42", {"alphabetic_words": 5 / 7, "stop_words": 2}),  # THE is no stop word
        ("to be of the and that have with to", {"stop_words": 8}),
        ("# a ## b", {"hashes_per_word": 3 / 4, "words": 2}),
        ("a... b…… c.. d......", {"ellipses_per_word": (1 + 2 + 0 + 2) / 4}),
        ("- one\n • two\nthree - \n\n", {"bullet_lines": 2 / 4}),  # the empty line counts, as in str.splitlines
        ("so...\nand so… \nor . . .\r\nor ..\u2028no", {"ellipsis_lines": 2 / 5}),
    ],
)
def test_gopher_quality_by_hand(text: str, expected: dict[str, float]) -> None:
    found = measured(text)["gopher_quality"]
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb\na\n\na\n", {"duplicate_lines": 2 / 4, "duplicate_line_characters": 2 / 9}),
        ("a\nb\na\n\na\n", {"duplicate_paragraphs": 0}),  # "a b a" and "a"
        ("x\ny\n\n\nz\n\nx\ny\n", {"duplicate_paragraphs": 1 / 3, "duplicate_paragraph_characters": 3 / 13}),
        ("x y\n\nx y", {"duplicate_paragraphs": 1 / 2, "duplicate_lines": 1 / 2}),
        ("x\ny", {"duplicate_paragraphs": 0}),
        ("to be or not to be", {"top_2gram": 5 * 2 / 18, "top_3gram": 8 / 18, "top_4gram": 12 / 18}),
        ("x  y z\u3000w", {"top_2gram": 3 / 8}),  # of equally common ones the first: "x y"
        # fourteen words of one letter: "a b c d e" comes again at the sixth, after which four words are left
        ("a b c d e a b c d e a b c d", {"duplicate_5grams": 5 / 27, "duplicate_10grams": 0}),
        ("a b c d e a b c d e a b c d", {"duplicate_6grams": 6 / 27, "duplicate_9grams": 9 / 27}),
        (" ".join("abcdefghij" * 2), {"duplicate_5grams": 10 / 39, "duplicate_10grams": 10 / 39}),
    ],
)
def test_gopher_repetition_by_hand(text: str, expected: dict[str, float]) -> None:
    found = measured(text)["gopher_repetition"]
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A line.\nand one more\n\n  \nwhat?\nno. ", {"punctuated_lines": 2 / 4}),
        ("是。\nनहीं।\nx:", {"punctuated_lines": 2 / 3}),
        ("x" * 30 + "\n" + "x" * 31 + "\n\n", {"short_lines": 1 / 2, "newlines_per_word": 3 / 2}),
        ("ab\ncd\nab\n", {"duplicate_line_characters": 2 / 6}),
    ],
)
def test_fineweb_by_hand(text: str, expected: dict[str, float]) -> None:
    found = measured(text)["fineweb"]
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Home\n\n  Three whole words here. \nOK then\r\nAnd once more.", "Three whole words here.\nAnd once more."),
        ("Please enable JavaScript to go on.\nThis line stays here.", "This line stays here."),
        (
            "Read our Privacy Policy, please do.\nWe USE cookies all day.\nWe use of course cookies.",
            "We use of course cookies.",
        ),
        ("A fact.[12] And one [citation needed] more[] here [edit]", "A fact. And one  more here "),
        ("Not [a12] nor [12 or [editor] of it", "Not [a12] nor [12 or [editor] of it"),
        ("one two " + "x" * 1001 + "\none two " + "y" * 1000, "one two " + "y" * 1000),
        ("one two\u2028three four five", "three four five"),
    ],
)
def test_c4_takes_lines_out(text: str, kept: str) -> None:
    cleaned = c4.clean(pa.array(["before it all", text])[1:], C4())
    assert cleaned.texts.to_pylist() == [kept.strip()]


def test_c4s_switches() -> None:
    text = pa.array(["one two\nuse cookies [1] javascript\nends in nothing here\nends in a dot.\nso it goes on..."])
    off = C4(remove_javascript_lines=False, remove_policy_lines=False, remove_citations=False, line_min_words=None)
    assert c4.clean(text, off).texts.to_pylist() == text.to_pylist()
    on = C4(remove_unpunctuated_lines=True)
    assert c4.clean(text, on).texts.to_pylist() == ["ends in a dot."]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("no stop at all", 1),
        ("One here. Two here! Three? Four", 4),
        ('He said "no." Then he (really!) left.', 3),
        ("Dr. A. B. Smith of Acme Inc. met us, e.g. at 5 p.m. there.", 1),
        ("From 7 to 8\u00a0p.m. there. It was", 2),
        ("It ended.Then it began ... and so on.", 2),
        ("Version 3.14 of a.b.c came at 16°C. It works.", 2),
        ("What?! Really?! -- \"Yes\"", 3),
        ("मैं यहाँ हूँ। वह वहाँ है।", 2),
        ("我在这里。你在哪里？「他也在。」我不知道！", 4),
        ("ここにいる。どこにいますか？", 2),
        ("ខ្ញុំនៅទីនេះ។អ្នកនៅទីណា។", 2),
    ],
)  # fmt: skip
def test_sentences(text: str, sentences: int) -> None:
    assert measured(text, ALL)["c4"]["sentences"] == sentences


def test_c4_counts_braces_and_lorem_ipsum_in_the_lines_that_stay() -> None:
    row = measured("if (x) {\n{ }\nLorem IPSUM dolor { sit\nuse javascript with { it", ALL)["c4"]
    assert (row["curly_brackets"], row["lorem_ipsums"]) == (2, 1)  # too short a line is not searched


def by_python(text: str) -> dict[str, float]:
    words = text.split()
    lines = [line for line in text.split("\n") if line]

    def repeated(pieces: list[str]) -> tuple[int, int]:
        again = [piece for place, piece in enumerate(pieces) if piece in pieces[:place]]
        return len(again), sum(map(len, again))

    found: dict[str, float] = {}
    found["duplicate_lines"] = repeated(lines)[0] / max(1, len(lines))
    found["duplicate_line_characters"] = repeated(lines)[1] / max(1, len(text))
    for n in (2, 3, 4):
        top = Counter(" ".join(words[i : i + n]) for i in range(len(words) - n + 1)).most_common(1)
        found[f"top_{n}gram"] = len(top[0][0]) * top[0][1] / len(text) if top else 0
    for n in range(5, 11):
        seen, characters, i = set(), 0, 0
        while i + n <= len(words):
            gram = tuple(words[i : i + n])
            characters += sum(map(len, gram)) if gram in seen else 0
            i += n if gram in seen else 1
            seen.add(gram)
        found[f"duplicate_{n}grams"] = characters / max(1, len(text))
    return found


@given(st.text(st.sampled_from("ab \n\tÜя\u2003.1"), max_size=200))
def test_repetition_agrees_with_plain_python(text: str) -> None:
    found = measured(text)["gopher_repetition"]
    expected = by_python(text)
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@given(st.lists(st.text(st.sampled_from("ab .\n\n\t\x1c\x85Üя\u2003漢字ไทย。"), max_size=60), max_size=4))
def test_lines_alone_are_those_of_split_texts(texts: list[str]) -> None:
    strings = pa.array(["before", *texts]).slice(1)
    whole, own = lined(take_apart(strings)), split_lines(strings)
    for name in set(Lined._fields) - {"hashes"}:
        assert getattr(own, name).tolist() == getattr(whole, name).tolist(), name
    pieces = [line for text in texts for line in text.split("\n") if line]
    assert [own.hashes.tolist().index(one) for one in own.hashes] == [pieces.index(piece) for piece in pieces]


def documents() -> list[str]:
    """Made-up documents of every kind that a rule is about; each is drawn many times with other words and shares."""
    random = Random(3)
    texts = []
    for _ in range(400):
        lines = []
        for _ in range(random.randrange(1, 30)):
            words = sentence(random, random.choice([1, 2, 5, 9, 14]))
            words += random.sample(["the", "of", "and", "with", "that"], random.randrange(3))
            lines.append(" ".join(words).capitalize() + random.choice([".", ".", ".", "!", "?", "", "...", ":"]))
        lines += random.choices(lines, k=random.choice([0, 0, 0, 1, 5]))
        text = random.choice(["\n", "\n", "\n\n", " "]).join(lines)
        for junk in ("\n- item and of", "\n{ x } and of", " #", " 12", " lorem ipsum", "\nuse cookies now", "..."):
            if random.random() < 0.08:
                text += junk * random.choice([1, 3, 40])
        texts.append(text)
    return texts


def test_verdicts_and_texts_are_datatroves() -> None:
    """datatrove's own filters, words split at white space, decide the same on every document."""
    if not peers.installed():
        pytest.skip("datatrove is not installed; run: python -m benchmarks.peers")
    expected = peers.call("datatrove_verdicts", texts=documents(), at_white_space=True)["verdicts"]
    table, texts = signals.measure(pa.array(map(str, range(400))), pa.array(documents()), ALL)
    dropped = failures(table, ALL).any(axis=0)
    found = ["" if drop else text for drop, text in zip(dropped, texts.to_pylist(), strict=True)]
    assert found == [text for _, text in expected]
    assert len({reason for reason, _ in expected}) > 8  # many rules were met
    assert 20 < sum(not reason for reason, _ in expected) < 380


def test_every_bound_is_a_rule_and_a_null_set_or_bound_is_off() -> None:
    assert all(measures(name) for name in SETS)
    names = [rule.name for rule in rules(ALL)]
    assert len(names) == len(set(names)) == 2 + 10 + 13 + 3 + 4  # word_list and rules of our own are off
    fewer = ALL.model_copy(update={"fineweb": None, "gopher_quality": GopherQuality(min_words=None)})
    assert set(names) - {rule.name for rule in rules(fewer)} == {
        "gopher_quality.min_words",
        *(name for name in names if name.startswith("fineweb.")),
    }


def test_slices_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = documents()[:60]
    batch = pa.record_batch({"id": [str(i) for i in range(60)], "text": texts})
    whole = [signals.measure(part["id"], part["text"], ALL) for part in signals.slices(batch)]
    monkeypatch.setattr(signals, "_SLICE", 700)
    parts = [signals.measure(part["id"], part["text"], ALL) for part in signals.slices(batch)]
    assert len(whole) == 1 and len(parts) > 20
    assert pa.concat_tables([table for table, _ in parts]).to_pylist() == whole[0][0].to_pylist()
    assert np.concatenate([kept.to_pylist() for _, kept in parts]).tolist() == whole[0][1].to_pylist()
