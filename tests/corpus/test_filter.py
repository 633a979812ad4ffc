"""The filter stage: its tables, what it keeps, languages and redaction."""

import json
import os
from concurrent.futures import Executor
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pytest
import yaml

from homegrown.config.filter import FilterSettings, GopherQuality, GopherRepetition
from homegrown.corpus.filter import filter_documents
from homegrown.corpus.quality import word_list
from homegrown.corpus.quality.by_language import adapted, table_of
from homegrown.corpus.quality.example import fit, good_texts
from homegrown.corpus.quality.rules import failures, rules
from homegrown.corpus.quality.texts import take_apart
from homegrown.corpus.redaction import redact
from homegrown.util.errors import UserError
from tests.corpus.made_up import digests, rows_of, write_documents

LAX = {
    "min_characters": 0,
    "max_characters": 10**9,
    "min_alphabetic_share": None,
    "gopher_quality": None,
    "gopher_repetition": None,
    "c4": None,
    "fineweb": None,
}


def test_each_rule_drops_what_is_beyond_its_threshold_and_says_why(tmp_path: Path, executor: Executor) -> None:
    texts = {
        "min_characters": "too short",
        "max_characters": "long words follow one another here " * 3 + "and never come to an end",
        "min_alphabetic_share": "1234567890 + 1234 = abc, 99",
        "gopher_repetition.max_duplicate_lines": "one line\nanother\none line\none line",
        "gopher_repetition.max_top_2gram": "la la la la la la la la la",
        "": "a text of good length and kind",
    }
    lax = dict.fromkeys(GopherRepetition.model_fields)
    repetition = lax | {"max_duplicate_lines": 0.3, "max_top_2gram": 0.3}
    bounds = {"min_characters": 20, "max_characters": 100, "min_alphabetic_share": 0.6, "gopher_repetition": repetition}
    settings = FilterSettings.model_validate(LAX | bounds)
    write_documents(tmp_path / "in", list(texts.values()), rows=4)
    outcome = filter_documents(tmp_path / "out", tmp_path / "in", settings, executor=executor)
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
        "gopher_repetition.max_duplicate_lines": (0.5, 0.3),
        "gopher_repetition.max_top_2gram": (pytest.approx(5 * 8 / 26), 0.3),
    }
    assert dropped["max_characters"]["text_start"] == texts["max_characters"][:200]
    assert outcome.rows_in == 6 and outcome.rows_out == 1
    assert [outcome.metrics[f"dropped_{rule}"] for rule in texts if rule] == [1] * 5
    names = [rule.name for rule in rules(settings)]
    summary = {row["rule"]: row for row in rows_of(tmp_path / "out" / "rules")}
    assert list(summary) == names
    assert {rule: row["dropped"] for rule, row in summary.items()} == {rule: int(rule in dropped) for rule in names}
    before = digests(tmp_path / "out")
    assert filter_documents(tmp_path / "out", tmp_path / "in", settings, executor=executor) == outcome
    assert digests(tmp_path / "out") == before


def test_a_value_at_its_threshold_passes(tmp_path: Path, executor: Executor) -> None:
    write_documents(tmp_path / "in", ["abcde fghi"])
    rules = FilterSettings.model_validate(LAX | {"min_characters": 10, "max_characters": 10, "min_alphabetic_share": 1})
    assert filter_documents(tmp_path / "out", tmp_path / "in", rules, executor=executor).rows_out == 1


def test_signals_decide_again_without_the_text(tmp_path: Path, executor: Executor) -> None:
    texts = ["short", "a text of some length, more than the other", "the same words the same words the same words"]
    write_documents(tmp_path / "in", texts, rows=2)
    lax = FilterSettings.model_validate(LAX)
    assert filter_documents(tmp_path / "lax", tmp_path / "in", lax, executor=executor).rows_out == 3
    signals = pa.Table.from_pylist(rows_of(tmp_path / "lax" / "signals"))
    assert signals["id"].to_pylist() == [row["id"] for row in rows_of(tmp_path / "in" / "documents")]
    repetition = dict.fromkeys(GopherRepetition.model_fields) | {"max_top_3gram": 0.5}
    strict = FilterSettings.model_validate(LAX | {"min_characters": 10, "gopher_repetition": repetition})
    filter_documents(tmp_path / "strict", tmp_path / "in", strict, executor=executor)
    kept = [text for text, drop in zip(texts, failures(signals, strict).any(axis=0), strict=True) if not drop]
    assert [row["text"] for row in rows_of(tmp_path / "strict" / "documents")] == kept == texts[1:2]


def test_c4_leaves_the_cleaned_text_under_the_old_id(tmp_path: Path, executor: Executor) -> None:
    text = "Home\nOne sentence is here. And two. Three there are! Four? Yes five.\nuse cookies, please do"
    write_documents(tmp_path / "in", [text, "Home\nback"])
    settings = FilterSettings.model_validate(LAX | {"c4": {}})
    filter_documents(tmp_path / "out", tmp_path / "in", settings, executor=executor)
    (row,) = rows_of(tmp_path / "out" / "documents")
    assert row == rows_of(tmp_path / "in" / "documents")[0] | {"text": text.split("\n")[1]}
    (dropped,) = rows_of(tmp_path / "out" / "dropped")
    assert (dropped["rule"], dropped["value"], dropped["text_start"]) == ("c4.min_sentences", 0, "Home\nback")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to jo.doe+x@mail.example.co.uk, or a@b.", "Write to email@example.com, or a@b."),
        ("8.8.8.8, not 10.0.0.1, 1.2.3.4.5, v8.8.8.8, 999.1.1.1", "IP, not 10.0.0.1, 1.2.3.4.5, v8.8.8.8, 999.1.1.1"),
        ("call +49 30 1234567 or (212) 555-1234", "call +1 202-555-0100 or +1 202-555-0100"),
        ("212-555-1234, not 2023-01-15, 1+1, 1234567890, +5", "+1 202-555-0100, not 2023-01-15, 1+1, 1234567890, +5"),
        ("nothing here", "nothing here"),
    ],
)  # fmt: skip
def test_personal_data_are_replaced(text: str, expected: str) -> None:
    redacted, counts = redact(pa.array(["a clean one", text]), ["email", "ip", "phone"])
    assert redacted.to_pylist() == ["a clean one", expected.replace("IP", "22.214.171.124")]
    assert (counts > 0).tolist() == [False, text != expected]


def test_redaction_is_of_what_is_kept_and_counted(tmp_path: Path, executor: Executor) -> None:
    texts = ["short a@b.com", "a long enough text that names a@b.com and c@d.org as well"]
    write_documents(tmp_path / "in", texts)
    settings = FilterSettings.model_validate(LAX | {"min_characters": 20, "redact": ["email"]})
    outcome = filter_documents(tmp_path / "out", tmp_path / "in", settings, executor=executor)
    assert [row["redacted"] for row in rows_of(tmp_path / "out" / "signals")] == [0, 2]
    assert outcome.metrics == {"dropped_min_characters": 1, "redacted": 2}
    assert "@b.com" not in rows_of(tmp_path / "out" / "documents")[0]["text"]


def test_the_tables_count_how_rules_overlap_and_what_is_kept_of_each_source(tmp_path: Path, executor: Executor) -> None:
    texts = ["short", "123 456", "x" * 50, "1" * 60, "a text of good length"]
    write_documents(tmp_path / "in", texts, rows=2)
    bounds = {"min_characters": 10, "max_characters": 40, "min_alphabetic_share": 0.6}
    settings = FilterSettings.model_validate(LAX | bounds)
    filter_documents(tmp_path / "out", tmp_path / "in", settings, executor=executor)
    counts = {row["rule"]: (row["failed"], row["alone"]) for row in rows_of(tmp_path / "out" / "rules")}
    assert counts == {"min_characters": (2, 1), "max_characters": (2, 1), "min_alphabetic_share": (2, 0)}
    overlap = {(row["rule"], row["other"]): row["both"] for row in rows_of(tmp_path / "out" / "overlap")}
    assert overlap == {
        ("min_characters", "min_alphabetic_share"): 1,
        ("max_characters", "min_alphabetic_share"): 1,
    }
    assert rows_of(tmp_path / "out" / "by_source") == [{"source": "made-up", "documents": 5, "kept": 1}]


def prose(random: Random, good: bool) -> str:
    """Return words of which every fourth is more frequent in good documents, or in others."""
    common = ["river", "stone", "window", "letter", "garden", "winter", "simple", "number"]
    marked = ["theorem", "lemma", "proof", "axiom"] if good else ["buy", "cheap", "click", "deal"]
    return " ".join(random.choice(marked if random.random() < 0.25 else common) for _ in range(60))


def test_documents_like_the_good_ones_are_kept(tmp_path: Path, executor: Executor) -> None:
    random = Random(1)
    good, like, other = (
        [prose(random, kind) for _ in range(count)] for kind, count in ((True, 100), (True, 60), (False, 540))
    )
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in good[:90]))
    for number, text in enumerate(good[90:]):
        (tmp_path / "good" / f"{number}.txt").write_text(text)
    texts = [*like, *other]
    random.shuffle(texts)
    write_documents(tmp_path / "in", texts, rows=200)
    settings = FilterSettings.model_validate(LAX | {"example": {"good": str(tmp_path / "good"), "min_percentile": 0.9}})
    outcome = filter_documents(tmp_path / "out", tmp_path / "in", settings, executor=executor)
    kept = {row["text"] for row in rows_of(tmp_path / "out" / "documents")}
    assert kept <= set(like)
    assert len(kept) > 40
    assert float(outcome.metrics["example_auc"]) > 0.9
    for row in rows_of(tmp_path / "out" / "dropped"):
        assert row["rule"] == "example.min_percentile"
        assert row["value"] < row["threshold"] == 0.9
    assert np.load(tmp_path / "out" / "example" / "weights.npy", allow_pickle=False).dtype == np.float32
    filter_documents(tmp_path / "again", tmp_path / "in", settings, executor=executor)
    assert digests(tmp_path / "again") == digests(tmp_path / "out")


def test_good_documents_that_are_like_the_corpus_are_warned_of(
    tmp_path: Path, executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    random = Random(3)
    (tmp_path / "good").mkdir()
    for number in range(100):
        (tmp_path / "good" / f"{number}.txt").write_text(prose(random, False))
    write_documents(tmp_path / "in", [prose(random, False) for _ in range(200)])
    settings = FilterSettings.model_validate(LAX | {"example": {"good": str(tmp_path / "good")}})
    outcome = filter_documents(tmp_path / "out", tmp_path / "in", settings, executor=executor)
    assert float(outcome.metrics["example_auc"]) < 0.6
    assert "hardly different from the corpus" in caplog.text


def test_good_documents_are_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("one")
    for name in ("good.txt", "absent"):
        with pytest.raises(UserError, match="is not a folder"):
            good_texts(str(tmp_path / name))


def test_the_area_under_the_curve_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score

    random = Random(2)
    good, others = ([prose(random, random.random() < share) for _ in range(300)] for share in (0.8, 0.4))
    classifier = fit(good, others)
    own = classifier.percentiles(take_apart(pa.array(good[::5])))
    rest = classifier.percentiles(take_apart(pa.array(others[::5])))
    expected = roc_auc_score([1] * len(own) + [0] * len(rest), [*own, *rest])
    assert classifier.auc == pytest.approx(expected, abs=0.02)  # percentiles have ties that scores do not have
    assert np.sort(rest).tolist() == pytest.approx((np.arange(60) + 1) / 60, abs=0.1)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({}, "no file in a supported format"),
        ({"a.txt": "one"}, "1 different documents with text; it needs at least 20"),
        ({f"{number}.txt": "one" for number in range(20)} | {"empty.txt": "", "blank.txt": " \n"}, "1 different"),
        ({"a.jsonl": "{}"}, "a.jsonl, line 1, has no key 'text'"),
        ({"a.jsonl": '{"text": "one"}\n[1]'}, "line 2, .*list instead of an object"),
        ({"a.TXT": "caf\xe9"}, "a.TXT is not UTF-8 text"),
        ({"a.jsonl": '{"text": null}'}, "NoneType instead of a text"),
        ({"a.jsonl": '{"text": "one \\ud800"}\n{"text": 5}'}, "int instead of a text"),
        ({"a.jsonl": '{"text": "one \\ud800"}'}, "1 different"),
    ],
)
def test_too_few_good_documents_are_an_error(
    tmp_path: Path, executor: Executor, written: dict[str, str], message: str
) -> None:
    (tmp_path / "good").mkdir()
    for name, content in written.items():
        (tmp_path / "good" / name).write_text(content, encoding="latin-1")
    write_documents(tmp_path / "in", ["a text"])
    settings = FilterSettings.model_validate(LAX | {"example": {"good": str(tmp_path / "good")}})
    with pytest.raises(UserError, match=message):
        filter_documents(tmp_path / "out", tmp_path / "in", settings, executor=executor)


def test_words_of_a_list_drop_a_document(tmp_path: Path, executor: Executor) -> None:
    words = tmp_path / "words.txt"
    words.write_text("Darn\n\nhot potato\n汚い\n", encoding="utf-8")
    texts = [
        "oh DARN it, so it is",
        "a hot, potato; hot air",
        "これは汚いです。",
        "a darning needle, a potato hot",
        "potato hot",
    ]
    write_documents(tmp_path / "in", texts)
    settings = FilterSettings.model_validate(LAX | {"word_list": {"path": str(words)}})
    filter_documents(tmp_path / "out", tmp_path / "in", settings, executor=executor)
    assert [row["text"] for row in rows_of(tmp_path / "out" / "documents")] == texts[3:]
    dropped = rows_of(tmp_path / "out" / "dropped")
    assert {row["rule"] for row in dropped} == {"word_list.max_listed_words"}
    assert [row["value"] for row in dropped] == [1 / 6, 1 / 5, 1 / 7]
    words.with_name("none.txt").write_text("\n!\n")
    for name, message in (("none.txt", "has no words"), ("absent.txt", "cannot be read")):
        wrong = FilterSettings.model_validate(LAX | {"word_list": {"path": str(tmp_path / name)}})
        with pytest.raises(UserError, match=message):
            filter_documents(tmp_path / "wrong", tmp_path / "in", wrong, executor=executor)


def test_a_changed_list_of_words_is_read_again(tmp_path: Path) -> None:
    file, texts = tmp_path / "words.txt", pa.array(["oh darn it"])
    for second, (listed, count) in enumerate([("darn\n", 1), ("oh\nit\n", 2)], 1):
        file.write_text(listed)
        os.utime(file, (second, second))
        assert word_list.look_up(texts, str(file)).listed == [count]


def test_languages_are_identified_and_unknown_codes_refused(tmp_path: Path, executor: Executor) -> None:
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


PROSE = json.loads((Path(__file__).parents[2] / "benchmarks" / "prose.json").read_text(encoding="utf-8"))


def settings_of(definition: str, **changes: object) -> FilterSettings:
    definitions = yaml.safe_load((Path(__file__).parents[2] / "pipelines.yaml").read_text())["definitions"]
    return FilterSettings.model_validate(definitions[definition] | changes)


@pytest.mark.parametrize("definition", ["filter_documentation", "filter_prose"])
def test_prose_in_eight_languages_is_kept(definition: str, tmp_path: Path, executor: Executor) -> None:
    texts = ["\n".join(paragraphs[:3]) for paragraphs in PROSE.values()]
    write_documents(tmp_path / "in", texts)
    settings = settings_of(definition, languages=[])
    filter_documents(tmp_path / "auto", tmp_path / "in", settings, executor=executor)
    assert [row["text"] for row in rows_of(tmp_path / "auto" / "documents")] == texts
    assert rows_of(tmp_path / "auto" / "by_language") == [
        {"language": language, "documents": 1, "kept": 1, "rule": None, "dropped": 0} for language in sorted(PROSE)
    ]
    one_for_all = settings.model_copy(update={"language": None, "min_language_score": None})
    filter_documents(tmp_path / "same", tmp_path / "in", one_for_all, executor=executor)
    kept = [row["text"] for row in rows_of(tmp_path / "same" / "documents")]
    assert kept == (texts if definition == "filter_documentation" else texts[:1])


@pytest.mark.parametrize("language", ["en", "ru", "hi", "zh"])
@pytest.mark.parametrize("definition", ["filter_documentation", "filter_prose"])
def test_junk_of_any_language_is_dropped(definition: str, language: str, tmp_path: Path, executor: Executor) -> None:
    random = Random(language)
    prose = "\n".join(PROSE[language])
    words = list(prose.replace("\n", "")) if language == "zh" else prose.split()
    space = "" if language == "zh" else " "
    letters = sorted({letter for letter in prose.lower() if letter.isalpha()})
    letters = letters[:60] if language == "zh" else letters
    junk = [
        space.join("".join(random.choices(letters, k=len(word))) for word in words * 2) + ".",
        space.join(random.sample(words * 8, len(words) * 8)) + ".",  # ICU finds few of the Chinese words in it
        "\n".join(space.join(random.sample(words, 3)) for _ in range(80)),
        " | ".join(space.join(random.sample(words, 2)) for _ in range(80)),
    ]
    write_documents(tmp_path / "in", [*junk, prose])
    settings = settings_of(definition, languages=[], min_language_score=None)
    filter_documents(tmp_path / "out", tmp_path / "in", settings, executor=executor)
    assert [row["text"] for row in rows_of(tmp_path / "out" / "documents")] == [prose]
    rules = {row["rule"] for row in rows_of(tmp_path / "out" / "dropped")}
    if definition == "filter_documentation" and language != "zh":
        assert {"junk.min_letter_patterns", "junk.max_disorder", "junk.min_running_text"} <= rules


def test_what_looks_like_junk_but_is_not(tmp_path: Path, executor: Executor) -> None:
    texts = [
        "so i said to him that we would not go. he said it was fine by him. then we left and took the bus. it was "
        "late. nobody was on it but us and the driver. we talked about old days. ok. then we got off and went home.",
        "The method is that of Sect. three of the book (see e.g. the notes, i.e. all of them). We measured them vs. "
        "their means. The values agree with those of Smith et al. who used another. Nobody objected to it. "
        "The figures show this. We repeated it in a second year. The difference was approx. one part in ten.",
        "\n".join(f"{n} apples * {n} boxes = {n * n} apples in the store" for n in range(2, 30)),
        "\n".join("The tide comes in,\nthe tide goes out.\nNobody asks it\nwhat about." for _ in range(6)),
        "\n".join(f"0 {n % 2} 0 0 1 0 0 0 {n % 3} 1 1 0" for n in range(60)) + "\nA matrix of zeros and ones, by rows.",
    ]
    write_documents(tmp_path / "in", texts)
    junk = FilterSettings.model_validate(LAX | {"junk": {}})
    filter_documents(tmp_path / "out", tmp_path / "in", junk, executor=executor)
    assert [row["text"] for row in rows_of(tmp_path / "out" / "documents")] == texts


def test_each_document_is_judged_by_its_language(tmp_path: Path, executor: Executor) -> None:
    random = Random(1)
    shuffled = " ".join(PROSE["ru"] * 6).split()
    random.shuffle(shuffled)
    texts = {
        "junk.min_letter_patterns": "".join(random.choices("рцщшфхжэлм  ", k=900)) + ". Да.",
        "junk.max_disorder": " ".join(shuffled) + ".",
        "gopher_quality.min_stop_words": " ".join(word for word in " ".join(PROSE["ru"]).split() if len(word) > 4)
        + ".",
        "fineweb.min_punctuated_lines": "\n".join(PROSE["ru"]).replace(".", ""),
        "": "\n".join(PROSE["ru"]),
    }
    write_documents(tmp_path / "in", list(texts.values()))
    settings = settings_of("filter_prose", languages=[], min_language_score=None)
    filter_documents(tmp_path / "out", tmp_path / "in", settings, executor=executor)
    dropped = {row["rule"]: row for row in rows_of(tmp_path / "out" / "dropped")}
    assert set(dropped) | {""} == set(texts)
    assert [row["text"] for row in rows_of(tmp_path / "out" / "documents")] == [texts[""]]
    punctuated = dropped["fineweb.min_punctuated_lines"]
    assert (punctuated["language"], punctuated["threshold"]) == ("ru", 0.231)  # FineWeb-2's for Russian
    place = list(texts).index("fineweb.min_punctuated_lines")
    rows = rows_of(tmp_path / "in" / "documents")
    assert [punctuated[name] for name in ("source", "path", "position")] == [
        rows[place][name] for name in ("source", "path", "position")
    ]
    summary = {row["language"]: row for row in rows_of(tmp_path / "out" / "by_language")}
    assert summary["ru"]["documents"] == 4 and summary["ru"]["kept"] == 1 and summary["ru"]["dropped"] == 1
    assert sum(row["documents"] for row in summary.values()) == 5  # gibberish is some other language


def test_a_setting_of_ones_own_holds_for_every_language() -> None:
    own = settings_of("filter_prose").model_copy(update={"gopher_quality": GopherQuality(max_mean_word_length=9)})
    japanese = adapted(own, table_of("ja", "Hani"))
    assert japanese.gopher_quality and japanese.fineweb and japanese.gopher_repetition
    assert japanese.gopher_quality.max_mean_word_length == 9  # the published one is 10
    assert japanese.gopher_quality.min_mean_word_length == 1  # FineWeb-2's for Japanese
    assert japanese.fineweb.max_newlines_per_word == 0.13 and japanese.fineweb.max_short_lines is None
    assert japanese.c4 is None and japanese.gopher_repetition.max_duplicate_5grams == 0.243
    assert adapted(own, table_of("en", "Latn")) == own == adapted(own, table_of("zxx", ""))
    lax = settings_of("filter_documentation")
    assert adapted(lax, table_of("de", "Latn")).gopher_quality is None
    assert [table_of(*pair) for pair in (("az", "Cyrl"), ("ja", "Hani"), ("qu", "Latn"), ("xx", "Cher"))] == [
        "az_Cyrl",
        "ja_Jpan",
        "Latn",
        "und",
    ]


def test_a_low_language_score_drops_a_document(tmp_path: Path, executor: Executor) -> None:
    random = Random(2)
    noise = ("".join(random.choices("etaoinshrdlu", k=random.randrange(2, 9))) for _ in range(150))
    write_documents(tmp_path / "in", [" ".join(noise), PROSE["en"][0]])
    settings = FilterSettings.model_validate(LAX | {"min_language_score": 0.9})
    filter_documents(tmp_path / "out", tmp_path / "in", settings, executor=executor)
    dropped = rows_of(tmp_path / "out" / "dropped")
    assert [(row["rule"], row["threshold"], row["position"]) for row in dropped] == [("min_language_score", 0.9, 1)]
    assert dropped[0]["value"] < 0.9
