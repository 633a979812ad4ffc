"""The number of sentences of a line: a word ends in a stop and another word follows.

Quotes and brackets may follow the stop. After a word of a script without spaces the other one may follow at once. A
full stop ends no sentence after one capital (an initial), after a common abbreviation, and in an ellipsis. These are
the sentences of spaCy's `sentencizer` for English tokens, which datatrove counts, except for rarer abbreviations,
emoticons and scripts without spaces.
"""

import string

import numpy as np
from numpy.typing import NDArray

from homegrown.corpus.characters import ALONE, LETTER, PUNCTUATION, SPACE, STOP, decode
from homegrown.corpus.compiled import compiled
from homegrown.corpus.quality.texts import hash_of, kind_of

_ABBREVIATIONS = (
    *("Mr", "Mrs", "Ms", "Messrs", "Dr", "Prof", "Rev", "Gen", "Gov", "Adm", "Rep", "Sen", "Jr", "St", "Mt", "Ph.D"),
    *("Inc", "Ltd", "Co", "co", "Corp", "Bros"),
    *("Jan", "Feb", "Mar", "Apr", "Jun", "Jul", "Aug", "Sep", "Sept", "Oct", "Nov", "Dec"),
    *("a.m", "p.m", "e.g", "E.g", "E.G", "i.e", "I.e", "I.E", "vs", "v.s"),
    *string.ascii_lowercase,
)
_KNOWN = np.array(sorted(hash_of(word) for word in _ABBREVIATIONS), np.uint64)
_OFFSET, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)  # as in texts.Words
_DOT, _DEGREE = 46, 0xB0
_LONGEST = 16  # bytes before a full stop to check
_CANDIDATES = np.array([byte in b".!?" or byte >= 0xC0 for byte in range(256)])  # first bytes of possible stops


@compiled
def count_sentences(
    data: NDArray[np.uint8], start: int, end: int, kinds: NDArray[np.uint8], lower: NDArray[np.uint32]
) -> int:
    """Return the number of sentences in the bytes `start` to `end` of a line, at least one unless it is empty."""
    sentences = int(end > start)
    i = start
    while i < end:
        if not _CANDIDATES[data[i]]:
            i += 1
            continue
        at = i
        code, i = decode(data, i)
        if not kind_of(kinds, code) & STOP:
            continue
        ellipsis = False
        while code == _DOT and i < end and data[i] == _DOT:
            ellipsis = True
            i += 1
        if ellipsis:
            continue
        last, ends = _before(data, start, at, kinds, lower)
        if ends or code != _DOT:
            begins, i = _begins(data, i, end, code == _DOT, last, kinds, lower)
            sentences += begins
    return sentences


@compiled
def _before(
    data: NDArray[np.uint8], start: int, at: int, kinds: NDArray[np.uint8], lower: NDArray[np.uint32]
) -> tuple[np.int64, bool]:
    """Return the character before a stop (0: none in its word), and whether a full stop ends a sentence there."""
    i = at
    while i > max(start, at - _LONGEST) and data[i - 1] > 32:
        i -= 1
    while data[i] & 0xC0 == 0x80:
        i += 1
    word = _OFFSET
    before = last = np.int64(0)
    while i < at:
        code, i = decode(data, i)
        kind = kind_of(kinds, code)
        if kind & SPACE:  # one beyond ASCII
            word, before, last = _OFFSET, np.int64(0), np.int64(0)
        elif last or not kind & PUNCTUATION:
            word = (word ^ np.uint64(code)) * _PRIME
            before, last = last, code
    if _is_upper(last, kinds, lower) and not _is_upper(before, kinds, lower) and before != _DEGREE:
        return last, False
    place = np.searchsorted(_KNOWN, word)
    return last, not (place < _KNOWN.size and _KNOWN[place] == word)


@compiled
def _begins(
    data: NDArray[np.uint8],
    i: int,
    end: int,
    full_stop: bool,
    last: np.int64,
    kinds: NDArray[np.uint8],
    lower: NDArray[np.uint32],
) -> tuple[bool, int]:
    """Return whether a sentence starts after the stop that ends at byte `i`, and where to continue.

    It starts at the next word, or at once: a capital after a small letter and its full stop, a stop before a word, or a
    stop other than a full one after a word of a script without spaces.
    """
    first = i
    spaced = False
    while i < end:
        at = i
        code, i = decode(data, i)
        kind = kind_of(kinds, code)
        if kind & SPACE:
            spaced = True
        elif not kind & (PUNCTUATION | STOP):
            joined = full_stop and at == first and _is_lower(last, kinds, lower) and _is_upper(code, kinds, lower)
            joined = joined or (not full_stop and kind_of(kinds, last) & ALONE != 0)
            return spaced or joined or (last == 0 and not full_stop), at
    return False, end


@compiled
def _is_upper(code: np.int64, kinds: NDArray[np.uint8], lower: NDArray[np.uint32]) -> bool:
    return bool(kind_of(kinds, code) & LETTER != 0 and lower[code] != code)


@compiled
def _is_lower(code: np.int64, kinds: NDArray[np.uint8], lower: NDArray[np.uint32]) -> bool:
    return bool(kind_of(kinds, code) & LETTER != 0 and lower[code] == code)
