"""Clean text: Unicode normal form, no control characters, no mojibake."""

import re
import unicodedata
from typing import NamedTuple

import regex

_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_C0 = bytes({*range(32), 127} - {9, 10})
_C1 = re.compile(b"\xc2[\x80-\x9f]")
# UTF-8 that was decoded as Windows-1252 or Latin-1: a letter from \xc2 to \xf4, then characters of the bytes \x80 to
# \xbf.
_NEXT = (
    "\x80-\xbf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc"
    "\u2013\u2014\u2018-\u201e\u2020-\u2022\u2026\u2030\u2039\u203a\u20ac\u2122"
)
_MOJIBAKE = regex.compile(f"[\xc2-\xf4][{_NEXT}]")
# Of these, what may follow a word in capitals: \u00abMA\u00c7\u00c3\u00bb and \u201cAMANH\u00c3\u201d are words.
_CLOSING = "\xa0\xa9\xaa\xae\xb0\xb2\xb3\xb7\xb9\xba\xbb\u2013\u2014\u2018-\u201d\u2022\u2026\u203a\u2122"
_WORD = regex.compile(rf"(?<=[A-Z]|[A-Z][\xc0-\xdd])[\xc2-\xdf][{_CLOSING}](?!\p{{L}})")
_SURE = regex.compile(
    rf"(?<=\p{{Ll}})[\xc2-\xde][{_NEXT}]|"
    rf"[\xc2\xc3][{_NEXT}](?=\p{{Ll}})|[\xc4-\xdf][[{_NEXT}]--[\u2019]](?=\p{{Ll}})|"
    rf"(?<!\p{{L}})[\xc2\xc3][\xa2-\xb9]|"
    rf"[\xc2-\xdf][[{_NEXT}]--[{_CLOSING}]]|(?:[\xc2-\xdf][{_NEXT}]){{2}}|"
    rf"[\xe0-\xef](?:[[{_NEXT}]--[{_CLOSING}]][{_NEXT}]|[{_NEXT}][[{_NEXT}]--[{_CLOSING}]])|"
    rf"[\xf0-\xf4][{_NEXT}]{{3}}",
    regex.V1,
)


class Cleaned(NamedTuple):
    """A clean text, the number of its lines that were repaired, and the first of these before and after."""

    text: str
    repaired: int = 0
    before: str = ""
    after: str = ""


def clean(text: str) -> str:
    """Return the clean text of `cleaned`."""
    return cleaned(text).text


def cleaned(text: str) -> Cleaned:
    """Return `text` in NFC, all line ends as \\n, without control characters other than tab and newline.

    Form feed, vertical tab and NEL end a line (Unicode annex 14). Lone surrogates are removed. ftfy (Speer 2019)
    repairs UTF-8 that was decoded as another encoding, in the lines that surely are.
    """
    found = Cleaned("")
    # Repair the original text first: some bytes of UTF-8 look like control characters, which the result lacks.
    while True:
        again = _repaired(text) if _is_suspect(text) else Cleaned(text)
        found = found if found.repaired else again
        result = _normal(again.text)
        if result == text or not _is_suspect(result):
            return found._replace(text=result)
        text = result


def _is_suspect(text: str) -> bool:
    return not text.isascii() and _MOJIBAKE.search(text) is not None and _SURE.search(text) is not None


def _normal(text: str) -> str:
    if _may_have_controls(text):
        text = _CONTROLS.sub("", _LINE_ENDS.sub("\n", text))
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _may_have_controls(text: str) -> bool:
    """Return whether the slow patterns can match; this test of the bytes is five times as fast."""
    try:
        data = text.encode()
    except UnicodeEncodeError:  # lone surrogates
        return True
    return len(data.translate(None, _C0)) < len(data) or _C1.search(data) is not None


def _repaired(text: str) -> Cleaned:
    import ftfy

    lines = text.split("\n")
    found = Cleaned("")
    for number, line in enumerate(lines):
        if not _is_suspect(line):
            continue
        parts = line.split(" ") if _WORD.search(line) else [line]  # or ftfy would change the word too
        fixed = " ".join(ftfy.fix_encoding(part) if _is_suspect(part) else part for part in parts)
        if fixed != line:
            lines[number] = fixed
            found = found._replace(repaired=found.repaired + 1)
            if found.repaired == 1:
                found = found._replace(before=line, after=fixed)
    return found._replace(text="\n".join(lines))
