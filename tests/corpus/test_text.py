import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homegrown.corpus.text import clean, cleaned

FRENCH = "L'été, à la forêt, où les élèves déjeunèrent près d'un chêne, fût-ce à Noël. " * 20
RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему. " * 10


@given(st.text() | st.text(st.sampled_from("aÂÃ¡©â€™\x1f\x80»Ó \n")))
def test_clean_text_is_nfc_utf8_without_controls(text: str) -> None:
    cleaned = clean(text)
    assert unicodedata.is_normalized("NFC", cleaned)
    assert cleaned.encode().decode() == cleaned
    assert not [c for c in cleaned if unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n"]
    assert clean(cleaned) == cleaned


def test_line_ends_become_newlines_and_words_stay_apart() -> None:
    assert clean("a\r\nb\rc\x0cd\x85e\tf\x00g\x1bh") == "a\nb\nc\nd\ne\tfgh"
    assert clean("e\u0301") == "\u00e9"


@pytest.mark.parametrize("once", ["cp1252", "latin-1"])
def test_utf8_that_was_taken_for_another_encoding_is_put_right(once: str) -> None:
    for text in (FRENCH, "naïve — “quoted”, it’s 20 €", RUSSIAN, "漢字かな交じり文"):
        try:
            broken = text.encode().decode(once)
        except UnicodeDecodeError:
            continue  # Windows-1252 lacks five bytes
        assert clean(f"untouched\n{broken}") == f"untouched\n{text}"


@pytest.mark.parametrize(
    "text",
    [
        "«MAÇÃ»",
        "“AMANHÃ” ele disse",
        "A «MAÇÃ» É BOA",
        "IRMÃ… ROMÃ™ MAÇÃ– Ã»",
        "Ç’avait été «ÇA»",
        "CAFÉ® É° AÇÃº",
        FRENCH,
        RUSSIAN,
        "«é», Ñandú, ÇA ET LÀ…, Âge, Ã, 10 °C–20 °C, ½ × ¾",
        "voilà»",
        "漢字 “x”",
    ],
)
def test_text_that_only_looks_a_little_broken_stays(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        ("Ã©tÃ©", "été"),
        ("dâ€™accord", "d’accord"),
        ("SÃ£o Paulo", "São Paulo"),
        ("20Â°C, Â£5, Â©", "20°C, £5, ©"),
        ("Ð\x9fÑ\x80Ð¸Ð²ÐµÑ‚", "Привет"),
        ("â€œquotedâ€\x9d", "“quoted”"),
        ("voilÃ\xa0 l’Ã©tÃ©", "voilà l’été"),
        ("ðŸ˜€ fine", "😀 fine"),
        ("A «MAÇÃ» de SÃ£o Paulo, disse dâ€™Artagnan", "A «MAÇÃ» de São Paulo, disse d’Artagnan"),
        ("Ä°stanbul'da Å\x9fehir", "İstanbul'da şehir"),
    ],
)
def test_what_surely_is_broken_is_repaired_and_counted(broken: str, text: str) -> None:
    found = cleaned(f"a line\n{broken}\nanother\n{broken} again")
    assert found.text == f"a line\n{text}\nanother\n{text} again"
    assert (found.repaired, found.before, found.after) == (2, broken, text)
    assert cleaned(found.text) == (found.text, 0, "", "")
