"""Bytes to clean text: which encoding they are in, and Unicode normal form without control characters."""

import codecs
import io
import re
import unicodedata
from typing import Any, TypeAlias

Stream: TypeAlias = "io.BufferedReader[Any]"

_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_SAMPLE = 65_536  # bytes from which an encoding is told
_BINARY = "binary data: it contains NUL bytes"
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it starts with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class Undecodable(Exception):
    """Bytes that are not text in any encoding we can tell; the message is the reason."""


def clean(text: str) -> str:
    """Return `text` in NFC, all line ends as \\n, without control characters other than tab and newline.

    Form feed, vertical tab and NEL end a line, as in Unicode's annex 14. Lone surrogates go too: UTF-8 has none.
    """
    text = _CONTROLS.sub("", _LINE_ENDS.sub("\n", text))
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def decode(data: bytes) -> str:
    """Decode a whole file: UTF-8, else what its marks or a sample around the first foreign byte show.

    Raises Undecodable.
    """
    try:
        text = data.decode("utf-8-sig")
        if "\0" in text:
            raise Undecodable(_BINARY)
        return text
    except UnicodeDecodeError as error:
        line = data.rfind(b"\n", 0, error.start) + 1
        marked = data.startswith(tuple(mark for mark, _ in _BOMS))
        start = 0 if marked else line if error.start - line < _SAMPLE // 2 else error.start
        encoding = encoding_of(data[start : start + _SAMPLE])
        if encoding == "utf-8":
            raise Undecodable(f"broken UTF-8 at byte {error.start}") from None
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise Undecodable(f"not {encoding} from byte {error.start} on, although it began so") from None


def encoding_of(sample: bytes) -> str:
    """Return the encoding of a file from its first bytes: UTF-8 also when it is broken here and there.

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
    """Whether there are more sequences of several bytes that are UTF-8 than ones that are not."""
    text = sample.decode(errors="replace")
    wrong = text.count("\ufffd")
    return sum(not character.isascii() for character in text) - wrong > wrong


def _detected(sample: bytes) -> str:
    import charset_normalizer

    whole_lines = sample[: sample.rfind(b"\n") + 1] or sample
    matches = charset_normalizer.from_bytes(whole_lines)
    best = matches.best()
    if best is None or len(_CONTROLS.findall(str(best))) > len(str(best)) / 100:
        raise Undecodable("binary data or an unknown encoding")
    equal = [match.encoding for match in matches if (match.chaos, match.coherence) == (best.chaos, best.coherence)]
    return "cp1252" if "cp1252" in equal else best.encoding  # by far the commonest of those that look alike


class _Recoded(io.RawIOBase):
    """A stream in any encoding, as UTF-8. Bytes that the encoding does not know pass unchanged, so they stay wrong."""

    def __init__(self, stream: Stream, encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)("surrogateescape")
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        while not self._ready:
            chunk = self._stream.read(_SAMPLE)
            self._ready = self._decoder.decode(chunk, final=not chunk).encode("utf-8", "surrogateescape")
            if not chunk:
                break
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size


def as_utf8(stream: Stream) -> Stream:
    """Return the stream, at its start, as UTF-8 without a byte order mark; raise Undecodable."""
    sample = stream.peek(_SAMPLE)[:_SAMPLE]
    encoding = encoding_of(sample)
    if encoding == "utf-8-sig":
        stream.read(len(codecs.BOM_UTF8))
    elif encoding != "utf-8":
        return io.BufferedReader(_Recoded(stream, encoding))
    return stream
