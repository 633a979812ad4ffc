"""C4's rules (Raffel et al. 2020, section 2.2, and its published code): removed lines, and measures of the rest.

The order is that of the published code: a line removed for its words is not searched for braces.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from homegrown.config.filter import C4
from homegrown.corpus.characters import ALONE, BREAK, SPACE, Characters, characters, decode
from homegrown.corpus.compiled import buffers, compiled
from homegrown.corpus.quality.repeats import Pieces
from homegrown.corpus.quality.sentences import count_sentences
from homegrown.corpus.quality.texts import Values, kind_of
from homegrown.corpus.segmenter import word_ends

_EDIT, _CITATION_NEEDED = np.frombuffer(b"edit]", np.uint8), np.frombuffer(b"citation needed]", np.uint8)
# Phrases to search a line for, each by one of its rarer letters: j, p (the second), k, v, f.
_JAVASCRIPT, _LOREM_IPSUM = np.frombuffer(b"javascript", np.uint8), np.frombuffer(b"lorem ipsum", np.uint8)
_COOKIE, _USE = np.frombuffer(b"cookie policy", np.uint8), np.frombuffer(b"use cookies", np.uint8)
_USES, _USE_OF = np.frombuffer(b"uses cookies", np.uint8), np.frombuffer(b"use of cookies", np.uint8)
_PRIVACY, _TERMS = np.frombuffer(b"privacy policy", np.uint8), np.frombuffer(b"terms of use", np.uint8)
_RARE = np.array([chr(byte) in "jJpPkKvVfF{" for byte in range(256)])
_NEWLINE, _OPEN, _CLOSE, _BRACE, _DOT = 10, 91, 93, 123, 46
_J, _P, _K, _V = 106, 112, 107, 118
_ENDS = np.frombuffer(b".?!\"'", np.uint8)


class _Switches(NamedTuple):
    """The lines to remove: the settings of `C4`, with 0 for null."""

    longest_word: int
    fewest_words: int
    citations: bool
    unpunctuated: bool
    javascript: bool
    policies: bool


class _Counts(NamedTuple):
    """By text, int64."""

    sentences: Pieces
    lorem_ipsum: Pieces
    braces: Pieces


@dataclass(frozen=True)
class Cleaned:
    """n texts without the lines that C4 removes, and the counts."""

    texts: pa.StringArray
    counts: _Counts


def clean(texts: pa.StringArray, settings: C4, ends: NDArray[np.int64] | None = None) -> Cleaned:
    """Remove lines, and citations in other lines, from every text of an Arrow array without nulls.

    Lines are those of `str.splitlines`; kept lines lose the white space around them. `ends` are the texts' `word_ends`,
    if they are known.
    """
    data, offsets = buffers(texts)
    n = len(texts)
    switches = _Switches(
        settings.line_max_word_length or 0,
        settings.line_min_words or 0,
        settings.remove_citations,
        settings.remove_unpunctuated_lines,
        settings.remove_javascript_lines,
        settings.remove_policy_lines,
    )
    counts = _Counts(*(np.zeros(n, np.int64) for _ in _Counts._fields))
    written = np.empty(int(offsets[-1] - offsets[0]) + n, np.uint8)
    places = np.zeros(n + 1, np.int32)
    ends = word_ends(data, offsets) if ends is None else ends
    _clean(data, offsets, characters(), ends, switches, written, places, counts)
    cleaned = pa.StringArray.from_buffers(n, pa.py_buffer(places), pa.py_buffer(written[: places[-1]]))
    return Cleaned(cleaned, counts)


def sentences(cleaned: Cleaned) -> Values:
    """Return the number of sentences. Published: at least 5."""
    return cleaned.counts.sentences.astype(float)


def lorem_ipsums(cleaned: Cleaned) -> Values:
    """Return the number of lines with "lorem ipsum" in any case. Published: none."""
    return cleaned.counts.lorem_ipsum.astype(float)


def curly_brackets(cleaned: Cleaned) -> Values:
    """Return the number of opening curly brackets. Published: none."""
    return cleaned.counts.braces.astype(float)


@compiled
def _clean(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int32],
    tables: Characters,
    ends: NDArray[np.int64],
    switches: _Switches,
    written: NDArray[np.uint8],
    places: NDArray[np.int32],
    counts: _Counts,
) -> None:
    kinds = tables.kinds
    place = 0
    for text in range(offsets.size - 1):
        i, end = int(offsets[text]), int(offsets[text + 1])
        first = place
        while i < end:
            start, stop, i = _next_line(data, i, end, kinds)
            line = place
            # A word has no more characters than its line has bytes.
            may_be_long = switches.longest_word > 0 and stop - start > switches.longest_word
            words, longest = _words(data, start, stop, kinds, ends, -1 if may_be_long else switches.fewest_words)
            long_word = may_be_long and longest > switches.longest_word
            if switches.citations and _has_bracket(data, start, stop):
                place = _copy_without_citations(data, start, stop, written, place)
            else:
                for at in range(start, stop):  # assigning a slice takes seconds to compile, for its error message
                    written[place + at - start] = data[at]
                place += stop - start
            if long_word or _is_removed(written, line, place, words, switches, counts, text):
                place = line
                continue
            counts.sentences[text] += count_sentences(written, line, place, kinds, tables.lower)
            written[place] = _NEWLINE
            place += 1
        place = _strip(written, first, place, kinds)
        places[text + 1] = place


@compiled
def _next_line(data: NDArray[np.uint8], i: int, end: int, kinds: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Return the start and end of a line's visible bytes, and the start of the next line."""
    start = i
    stop = end
    while i < end:
        if data[i] > 30 and data[i] != 0xC2 and data[i] != 0xE2:  # no first byte of a line break
            i += 1
            continue
        at = i
        code, i = decode(data, i)
        if kind_of(kinds, code) & BREAK:
            stop = at
            if code == 13 and i < end and data[i] == _NEWLINE:
                i += 1
            break
    start, stop = _visible(data, start, stop, kinds)
    return start, stop, i


@compiled
def _visible(data: NDArray[np.uint8], start: int, stop: int, kinds: NDArray[np.uint8]) -> tuple[int, int]:
    """Return start and end without the white space around; for white space alone, the start twice."""
    first = start
    while first < stop:
        code, after = decode(data, first)
        if not kind_of(kinds, code) & SPACE:
            break
        first = after
    if first == stop:
        return start, start
    while True:
        at = stop - 1
        while data[at] & 0xC0 == 0x80:
            at -= 1
        code, _ = decode(data, at)
        if not kind_of(kinds, code) & SPACE:
            return first, stop
        stop = at


@compiled
def _words(
    data: NDArray[np.uint8], i: int, end: int, kinds: NDArray[np.uint8], ends: NDArray[np.int64], enough: int
) -> tuple[int, int]:
    """Return the number of words and the length of the longest one, of the first `enough` words; negative: of all."""
    words = longest = length = 0
    joined = False  # in a word of a script without spaces
    place = -1
    while i < end and words != enough:
        code, i = decode(data, i)
        kind = kind_of(kinds, code)
        if kind & SPACE:
            length = 0
            continue
        if kind & ALONE and not joined:
            length = 0
        if length == 0:
            words += 1
        length += 1
        longest = max(longest, length)
        if kind & ALONE:
            place = int(np.searchsorted(ends, i)) if place < 0 else place
            while place < ends.size and ends[place] < i:
                place += 1
            joined = not (place < ends.size and ends[place] == i)
            length = length if joined else 0
    return words, longest


@compiled
def _has_bracket(data: NDArray[np.uint8], start: int, end: int) -> bool:
    found = np.uint8(0)
    for i in range(start, end):  # no branch, so it vectorizes
        found |= np.uint8(data[i] == np.uint8(_OPEN))
    return bool(found != 0)


@compiled
def _copy_without_citations(
    data: NDArray[np.uint8], start: int, stop: int, written: NDArray[np.uint8], place: int
) -> int:
    """Copy a line without marks such as [1], [edit] and [citation needed]; return its end."""
    i = start
    while i < stop:
        if data[i] == _OPEN:
            after = i + 1
            while after < stop and 48 <= data[after] <= 57:
                after += 1
            if after < stop and data[after] == _CLOSE:
                i = after + 1
                continue
            if _is_at(data, i + 1, start, stop, _EDIT):
                i += 1 + _EDIT.size
                continue
            if _is_at(data, i + 1, start, stop, _CITATION_NEEDED):
                i += 1 + _CITATION_NEEDED.size
                continue
        written[place] = data[i]
        place += 1
        i += 1
    return place


@compiled
def _is_removed(
    written: NDArray[np.uint8], start: int, end: int, words: int, switches: _Switches, counts: _Counts, text: int
) -> bool:
    """Return whether a line is removed; add to the counts of the text unless an earlier rule removes the line."""
    if switches.unpunctuated and not _is_punctuated(written, start, end):
        return True
    if words < switches.fewest_words:
        return True
    lorem_ipsum = javascript = policy = False
    braces = 0
    for i in range(start, end):
        if not _RARE[written[i]]:
            continue
        byte = written[i]
        letter = byte | 32 if byte <= 90 else byte
        if byte == _BRACE:
            braces += 1
        elif letter == _J:
            javascript = javascript or _is_at(written, i, start, end, _JAVASCRIPT)
        elif letter == _P:
            lorem_ipsum = lorem_ipsum or _is_at(written, i - 7, start, end, _LOREM_IPSUM)
        elif letter == _K:
            policy = (
                policy
                or _is_at(written, i - 3, start, end, _COOKIE)
                or _is_at(written, i - 7, start, end, _USE)
                or _is_at(written, i - 8, start, end, _USES)
                or _is_at(written, i - 10, start, end, _USE_OF)
            )
        elif letter == _V:
            policy = policy or _is_at(written, i - 3, start, end, _PRIVACY)
        else:
            policy = policy or _is_at(written, i - 7, start, end, _TERMS)
    counts.lorem_ipsum[text] += lorem_ipsum
    if javascript and switches.javascript:
        return True
    counts.braces[text] += braces
    return policy and switches.policies


@compiled
def _is_punctuated(written: NDArray[np.uint8], start: int, end: int) -> bool:
    """Return whether a line ends in . ? ! or a quote, and not in an ellipsis."""
    if end == start:
        return False
    if end - start >= 3 and written[end - 1] == _DOT and written[end - 2] == _DOT and written[end - 3] == _DOT:
        return False
    found = False
    for mark in _ENDS:
        found = found or written[end - 1] == mark
    return found


@compiled
def _is_at(data: NDArray[np.uint8], i: int, start: int, end: int, pattern: NDArray[np.uint8]) -> bool:
    """Return whether byte `i` of the line `start` to `end` starts `pattern`, regardless of ASCII case."""
    if i < start or i + pattern.size > end:
        return False
    for k in range(pattern.size):
        byte = data[i + k]
        if (byte | 32 if 65 <= byte <= 90 else byte) != pattern[k]:
            return False
    return True


@compiled
def _strip(written: NDArray[np.uint8], first: int, end: int, kinds: NDArray[np.uint8]) -> int:
    """Move a text so that it starts with a visible character; return the end of its last one."""
    start, stop = _visible(written, first, end, kinds)
    if start > first:
        for k in range(stop - start):
            written[first + k] = written[start + k]
    return stop - (start - first)
