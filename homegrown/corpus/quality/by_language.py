"""Rules by language: the thresholds and stop words that FineWeb-2 publishes (Penedo et al. 2025).

`languages.json` has the figures of FineWeb-2's configuration for the languages that are identified here, by language
and script, and the medians of these by script for the others; FineWeb-2 has none for English. It derived them from the
distributions of each language in Common Crawl and Wikipedia. They replace the published English thresholds only: a
setting with another value, and a set that is null, holds for every language. FineWeb-2 leaves out C4's rules, Gopher's
rules of paragraphs and of characters in lines, and FineWeb's of short lines, and so do these. Its least language scores
are those of another model, and are not used.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from homegrown.config.filter import FilterSettings, FineWeb, GopherQuality, GopherRepetition

_FIGURES = Path(__file__).with_name("languages.json")
ANY = "und"  # ISO 639-2: undetermined; the medians of all
_AS_IS = ("", "en", "zxx")
_SAME_FOR_ALL: dict[str, dict[str, float | None]] = {
    "gopher_repetition": {
        "max_duplicate_paragraphs": None,
        "max_duplicate_paragraph_characters": None,
        "max_duplicate_line_characters": None,
    },
    "fineweb": {"max_short_lines": None, "max_duplicate_line_characters": 0.1},
}
# The published ones are particles, which white space does not separate from the word before.
_KOREAN = (
    *("그", "이", "저", "수", "것", "등", "및", "더", "또", "한", "두", "때", "중", "안", "못", "잘", "다"),
    *("그리고", "그러나", "하지만", "또는", "있다", "없다", "있는", "없는", "하는", "위해", "대한", "모든", "같은"),
)


def table_of(language: str, script: str) -> str:
    """Return the name of the figures for a document; "" for those of the recipe: English, and text without language.

    The figures are those of the language in this script; of the language, if it has only one script; of the script.
    """
    if language in _AS_IS:
        return ""
    if f"{language}_{script}" in _figures():
        return f"{language}_{script}"
    own = _scripts().get(language, ())
    return own[0] if len(own) == 1 else script if script in _figures() else ANY


@cache
def stop_words(table: str) -> tuple[str, ...]:
    """Return the stop words of a language; none for a script, whose documents no rule of stop words judges."""
    return _KOREAN if table == "ko_Hang" else tuple(_figures()[table].get("stop_words", ()))


def adapted(settings: FilterSettings, table: str) -> FilterSettings:
    """Return the settings for documents with these figures: what they set to a published value is the language's."""
    if not table:
        return settings
    figures = _figures()[table]
    sets: dict[str, Any] = {
        "gopher_quality": _adapted(settings.gopher_quality, GopherQuality(), figures["gopher_quality"]),
        "gopher_repetition": _adapted(
            settings.gopher_repetition,
            GopherRepetition(),
            figures["gopher_repetition"] | _SAME_FOR_ALL["gopher_repetition"],
        ),
        "fineweb": _adapted(settings.fineweb, FineWeb(), figures["fineweb"] | _SAME_FOR_ALL["fineweb"]),
        "c4": None,
    }
    if sets["gopher_quality"] and not stop_words(table):
        sets["gopher_quality"] = sets["gopher_quality"].model_copy(update={"min_stop_words": None})
    return settings.model_copy(update=sets)


def _adapted(settings: Any, published: Any, figures: dict[str, float | None]) -> Any:
    if settings is None:
        return None
    same = {name: value for name, value in figures.items() if getattr(settings, name) == getattr(published, name)}
    return settings.model_copy(update=same)


@cache
def _scripts() -> dict[str, tuple[str, ...]]:
    """Return the names of the figures of each language."""
    languages: dict[str, tuple[str, ...]] = {}
    for name in _figures():
        language, _, script = name.partition("_")
        if script:
            languages[language] = (*languages.get(language, ()), name)
    return languages


@cache
def _figures() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(_FIGURES.read_text(encoding="utf-8"))
    return found
