"""Bytes to clean text: encoding, Unicode normal form, no control characters."""

import codecs
import re
import unicodedata

from homegrown.corpus.compression import Ending
from homegrown.corpus.streams import Stream, buffered

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
MOST_REPLACED = 0.02
"""Share of a text's characters with invalid bytes, beyond which it is not a document."""
_SAMPLE = 65_536  # bytes to detect an encoding from
_BINARY = "binary data: it contains NUL bytes"
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, a prefix of it
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class Undecodable(Exception):
    """Bytes that are not text in any detectable encoding; the message is the reason."""


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


def decode_utf8(data: bytes) -> tuple[str, int]:
    """Return UTF-8 as text, and the number of places with invalid bytes, each of which becomes U+FFFD."""
    try:
        return data.decode(), 0
    except UnicodeDecodeError:
        text = data.decode(errors="replace")
        return text, text.count("\ufffd") - data.count("\ufffd".encode())


def decode(data: bytes, declared: str | None = None) -> str:
    """Decode a file: as UTF-8, else as `declared`, else by its byte order mark or a sample of its bytes.

    Raises Undecodable.
    """
    try:
        text = data.decode("utf-8-sig")
        if "\0" in text:
            raise Undecodable(_BINARY)
        return text
    except UnicodeDecodeError as error:
        if declared and (text := _as_declared(data, declared)):
            return text
        line = data.rfind(b"\n", 0, error.start) + 1
        marked = data.startswith(tuple(mark for mark, _ in _BOMS))
        start = 0 if marked else line if error.start - line < _SAMPLE // 2 else error.start
        encoding = encoding_of(data[start : start + _SAMPLE])
        if encoding == "utf-8":
            raise Undecodable(f"broken UTF-8 at byte {error.start}") from None
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise Undecodable(f"not {encoding} from byte {error.start} on, although it starts so") from None


def _as_declared(data: bytes, declared: str) -> str:
    """Decode as an HTTP header or a page declares; empty if impossible. Latin-1 means Windows-1252 (WHATWG)."""
    try:
        codec = codecs.lookup(declared.strip()).name
        return data.decode("cp1252" if codec in ("iso8859-1", "ascii") else codec)
    except (LookupError, UnicodeDecodeError, ValueError):
        return ""


def encoding_of(sample: bytes) -> str:
    """Return the encoding of a file from its first bytes: UTF-8 also if some bytes are invalid.

    Raises Undecodable for binary data.
    """
    for mark, encoding in _BOMS:
        if sample.startswith(mark):
            return encoding
    if b"\0" in sample:
        raise Undecodable(_BINARY)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
        return "utf-8"
    except UnicodeDecodeError:
        return "utf-8" if _mostly_utf8(sample) else _detected(sample)


def _mostly_utf8(sample: bytes) -> bool:
    """Return whether valid UTF-8 sequences of several bytes outnumber invalid ones."""
    text = sample.decode(errors="replace")
    wrong = text.count("\ufffd")
    return sum(not character.isascii() for character in text) - wrong > wrong


def _detected(sample: bytes) -> str:
    import charset_normalizer

    complete_lines = sample[: sample.rfind(b"\n") + 1] or sample
    matches = charset_normalizer.from_bytes(complete_lines)
    best = matches.best()
    if best is None or len(_CONTROLS.findall(str(best))) > len(str(best)) / 100:
        raise Undecodable("binary data or an unknown encoding")
    equal = [match.encoding for match in matches if (match.chaos, match.coherence) == (best.chaos, best.coherence)]
    return "cp1252" if "cp1252" in equal else best.encoding  # by far the most common of these


class _Recoded(Ending):
    """A stream in any encoding as UTF-8. Undecodable bytes pass unchanged, so they stay invalid."""

    def __init__(self, stream: Stream, encoding: str) -> None:
        super().__init__()
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)("surrogateescape")
        self._ready = b""

    def _fill(self, buffer: memoryview) -> int:
        while not self._ready:
            chunk = self._stream.read(_SAMPLE)
            self._ready = self._decoder.decode(chunk, final=not chunk).encode("utf-8", "surrogateescape")
            if not chunk:
                break
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size


def as_utf8(stream: Stream) -> Stream:
    """Return a stream at its start as UTF-8 without a byte order mark; raise Undecodable."""
    sample = stream.peek(_SAMPLE)[:_SAMPLE]
    encoding = encoding_of(sample)
    if encoding == "utf-8-sig":
        stream.read(len(codecs.BOM_UTF8))
    elif encoding != "utf-8":
        return buffered(_Recoded(stream, encoding))
    return stream
