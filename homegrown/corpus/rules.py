"""Rules of quality as compiled measures of a text, given as UTF-8 bytes `start` to `end` of Arrow's buffer.

Words are what white space separates, as in Python's `str.split`, punctuation included. Characters are code points.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from homegrown.corpus.characters import CODE_POINTS, LETTER, SPACE, characters, decode
from homegrown.corpus.compiled import compiled

MEASURES = ("characters", "alphabetic_share", "duplicate_line_share", "top_bigram_share")
_OFFSET = np.uint64(0xCBF29CE484222325)  # FNV-1a, 64 bits, over code points
_PRIME = np.uint64(0x100000001B3)
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd; the second word of a 2-gram


def measure(texts: pa.StringArray) -> dict[str, NDArray[np.float64]]:
    """Return the measures of every text of an Arrow array without nulls, each (n,) float64, by their names."""
    n = len(texts)
    offsets = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + n + 1]
    data = np.frombuffer(texts.buffers()[2] or b"", np.uint8)
    return dict(zip(MEASURES, _measure(data, offsets, characters().kinds), strict=True))


@compiled
def _measure(data: NDArray[np.uint8], offsets: NDArray[np.int32], kinds: NDArray[np.uint8]) -> NDArray[np.float64]:
    result = np.empty((4, offsets.size - 1), np.float64)
    for i in range(offsets.size - 1):
        start, end = int(offsets[i]), int(offsets[i + 1])
        result[0, i] = character_count(data, start, end)
        result[1, i] = alphabetic_share(data, start, end, kinds)
        result[2, i] = duplicate_line_share(data, start, end, kinds)
        result[3, i] = top_bigram_share(data, start, end, kinds)
    return result


@compiled
def character_count(data: NDArray[np.uint8], start: int, end: int) -> int:
    """Return the number of characters: of bytes that continue none."""
    count = 0
    for i in range(start, end):
        count += data[i] & 0xC0 != 0x80
    return count


@compiled
def alphabetic_share(data: NDArray[np.uint8], start: int, end: int, kinds: NDArray[np.uint8]) -> float:
    """Return the share of letters (Unicode category L) among the characters that are not white space; 0 without any.

    Rae et al. 2021 ask for a letter in 80% of the words; by character the share is lower and needs no word splitting.
    """
    letters = others = 0
    i = start
    while i < end:
        code, i = decode(data, i)
        kind = _kind(kinds, code)
        if kind & LETTER:
            letters += 1
        elif not kind & SPACE:
            others += 1
    return letters / max(1, letters + others)


@compiled
def duplicate_line_share(data: NDArray[np.uint8], start: int, end: int, kinds: NDArray[np.uint8]) -> float:
    """Return the share of lines that have occurred before, white space around them removed, blank lines not counted.

    Rae et al. 2021, table A1: duplicate line fraction, at most 0.30.
    """
    breaks = 1
    for i in range(start, end):
        breaks += data[i] == 10
    seen = np.zeros(_slots(breaks), np.uint64)
    lines = repeated = 0
    line = up_to_here = np.uint64(0)  # hash of the line so far, without and with the white space at its end
    i = start
    while i < end:
        code, i = decode(data, i)
        blank = _kind(kinds, code) & SPACE != 0
        if not blank or line:
            up_to_here = ((up_to_here if line else _OFFSET) ^ np.uint64(code)) * _PRIME
        if not blank:
            line = up_to_here
        if (code == 10 or i >= end) and line:
            lines += 1
            slot = _find(seen, line)
            repeated += seen[slot] == line
            seen[slot] = line
            line = np.uint64(0)
    return repeated / max(1, lines)


@compiled
def top_bigram_share(data: NDArray[np.uint8], start: int, end: int, kinds: NDArray[np.uint8]) -> float:
    """Return the share of characters in the commonest 2-gram of words: its length, a space included, times its count.

    Of several, the one that comes first. Rae et al. 2021, table A1: top 2-gram character fraction, at most 0.20.
    """
    words = 0
    inside = False
    i = start
    while i < end:
        code, i = decode(data, i)
        blank = _kind(kinds, code) & SPACE != 0
        words += inside and blank
        inside = not blank
    words += inside
    size = _slots(words)
    keys = np.zeros(size, np.uint64)
    counts = np.zeros(size, np.int32)
    firsts = np.zeros(size, np.int32)
    lengths = np.zeros(size, np.int32)
    characters_ = bigrams = length = previous_length = 0
    word, previous = _OFFSET, np.uint64(0)
    i = start
    while i < end:
        code, i = decode(data, i)
        characters_ += 1
        blank = _kind(kinds, code) & SPACE != 0
        if not blank:
            word = (word ^ np.uint64(code)) * _PRIME
            length += 1
        if length and (blank or i >= end):
            if previous_length:
                key = previous * _BASE + word
                slot = _find(keys, key)
                if keys[slot] != key:
                    keys[slot], firsts[slot], lengths[slot] = key, bigrams, previous_length + 1 + length
                counts[slot] += 1
                bigrams += 1
            previous, previous_length = word, length
            word, length = _OFFSET, 0
    top = 0
    for slot in range(size):
        if counts[slot] > counts[top] or (counts[slot] == counts[top] and firsts[slot] < firsts[top]):
            top = slot
    return float(counts[top] * lengths[top] / max(1, characters_))


@compiled
def _kind(kinds: NDArray[np.uint8], code: np.int64) -> np.uint8:
    return kinds[code] if code < CODE_POINTS else np.uint8(0)


@compiled
def _slots(keys: int) -> int:
    """Return a power of two, the size of a hash table that `keys` fill to half at most."""
    size = 4
    while size < 2 * keys:
        size *= 2
    return size


@compiled
def _find(table: NDArray[np.uint64], key: np.uint64) -> int:
    """Return the slot of `key`, or the empty one (0) where it belongs, by linear probing."""
    slot = (key ^ key >> np.uint64(32)) & np.uint64(table.size - 1)
    while table[slot] != key and table[slot] != 0:
        slot = (slot + np.uint64(1)) & np.uint64(table.size - 1)
    return int(slot)
