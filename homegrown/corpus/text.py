"""Clean text: Unicode normal form, no control characters, no mojibake."""

import re
import unicodedata

_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_C0 = bytes({*range(32), 127} - {9, 10})
_C1 = re.compile(b"\xc2[\x80-\x9f]")
# The first bytes of a UTF-8 sequence in Windows-1252 or Latin-1: a letter from \xc2 to \xf4, then a character of the
# bytes \x80 to \xbf. Few languages write them next to each other.
_MOJIBAKE = re.compile(
    "[\xc2-\xf4][\x80-\xbf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc"
    "\u2013\u2014\u2018-\u201e\u2020-\u2022\u2026\u2030\u2039\u203a\u20ac\u2122]"
)


def clean(text: str) -> str:
    """Return `text` in NFC, all line ends as \\n, without control characters other than tab and newline.

    Form feed, vertical tab and NEL end a line (Unicode annex 14). Lone surrogates are removed. ftfy (Speer 2019)
    repairs UTF-8 that was decoded as another encoding, in the lines that look like it.
    """
    cleaned = _normal(text)
    # Repair the original text first: some bytes of UTF-8 look like control characters, which `cleaned` lacks.
    while _is_suspect(text) or (text != cleaned and _is_suspect(cleaned)):
        repaired = _normal(_repaired(text))
        if repaired == cleaned == text:
            break
        text = cleaned = repaired
    return cleaned


def _is_suspect(text: str) -> bool:
    return not text.isascii() and _MOJIBAKE.search(text) is not None


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


def _repaired(text: str) -> str:
    import ftfy

    lines = text.split("\n")
    return "\n".join(ftfy.fix_encoding(line) if _is_suspect(line) else line for line in lines)
