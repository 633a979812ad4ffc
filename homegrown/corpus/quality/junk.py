"""Measures of our own for text that nobody wrote to be read: gibberish, words in random order, menus.

Each compares a document with itself, so that one threshold holds for every language and script: what is counted is
relative to its number in random order.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from homegrown.corpus.characters import CODE_POINTS, LETTER, STOP, characters, decode
from homegrown.corpus.compiled import buffers, compiled
from homegrown.corpus.languages import WINDOW, WINDOWS
from homegrown.corpus.quality.repeats import Pieces, collisions, equal_neighbors
from homegrown.corpus.quality.texts import Texts, Values, hash_of, kind_of, share, total

_EXPECTED = 3  # in random order; with fewer, chance decides
_FOUND = 2
# Expected repeats of three letters, and of two in a syllabary and in a large alphabet; with fewer, chance decides.
_TRIPLES, _SYLLABLES, _PAIRS = 5, 3, 20
_SYLLABARY, _LARGE = 0.04, 0.06  # probability that two letters are equal: below; Latin letters have about .07
_RANDOM, _ENOUGH = 0.004, 200  # fewer equal letters in as many: no writing has so many letters, all alike
_LETTERS = 96  # of a window
_LINE_WORDS = 5
_NEWLINE = 10
_SEPARATORS = "|·•»›>/■→"  # between the entries of a menu


@dataclass(frozen=True)
class Plain:
    """n texts, as they are and split."""

    data: NDArray[np.uint8]
    offsets: NDArray[np.int32]
    texts: Texts


def look_at(texts: pa.StringArray, split: Texts) -> Plain:
    """Return what the measures need."""
    return Plain(*buffers(texts), split)


def disorder(plain: Plain) -> Values:
    """Return what prose avoids, relative to its number in random order: 0 is usual; words in random order have about 1.

    Counted are words with letters that are equal to the preceding one; sentences of one or two words; and, where
    sentences begin with capitals, small letters after the end of one. 0 for texts too short to tell, with fewer than
    two of them or fewer than three expected.
    """
    ends, ends_expected = np.zeros((2, len(plain.offsets) - 1))
    _sentences(plain.data, plain.offsets, characters().kinds, _cases(), ends, ends_expected)
    words = plain.texts.words
    equal, equal_expected = equal_neighbors(words.starts, words.hashes, words.letters, _FOUND - ends)
    expected = equal_expected + ends_expected
    result: Values = np.where(expected >= _EXPECTED, (equal + ends) / np.maximum(expected, _EXPECTED), 0)
    return result


def letter_patterns(plain: Plain) -> Values:
    """Return the number of repeated sequences of three letters, relative to its number in random order.

    A language has about 10, letters in random order have 1. Where three are too rare, two count: those of a syllabary
    or of Chinese as they are, those of a large alphabet squared. 0 where hardly a letter repeats. NaN for texts too
    short to tell. Read are eight windows of at most 256 bytes and 96 letters.
    """
    result = np.full(len(plain.offsets) - 1, np.nan)
    _letter_patterns(plain.data, plain.offsets, characters().kinds, characters().lower, result)
    return result


def running_text(plain: Plain) -> Values:
    """Return the share of the words in lines of at least five words and in lines that end a sentence.

    The separators of menus, such as | and ·, end a line too.
    """
    words, lines = plain.texts.words, plain.texts.lines
    separators = np.array([hash_of(character) for character in _SEPARATORS], np.uint64)
    ends = np.isin(words.hashes[: words.starts[-1]], separators)
    running = np.zeros(len(plain.offsets) - 1, np.int64)
    _running_words(words.starts, lines.starts, lines.words, lines.punctuated, ends, running)
    counted = np.diff(words.starts) - total(words.starts, ends)
    return np.where(counted > 0, share(running, counted), 1)


@cache
def _cases() -> NDArray[np.uint8]:
    """Return by code point 1 for a small letter, 2 for a capital, 0 for others."""
    lower = characters().lower
    capitals = lower != np.arange(CODE_POINTS, dtype=np.uint32)
    cases = np.zeros(CODE_POINTS, np.uint8)
    cases[lower[capitals]] = 1
    cases[capitals] = 2
    return cases


@compiled
def _sentences(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int32],
    kinds: NDArray[np.uint8],
    cases: NDArray[np.uint8],
    found: Values,
    expected: Values,
) -> None:
    """Count by text the ends of sentences at most two words after another, and the small letters after an end.

    An end is a word whose last character ends sentences, and no other character: neither `...` nor `e.g.`. The last
    word of a line is one if the next line begins with a capital; a small letter there does not count. Where capitals
    are fewer than ends, sentences do not begin with them, and no small letter counts.
    """
    for text in range(found.size):
        start, end = int(offsets[text]), int(offsets[text + 1])
        words = small = capitals = ends = after = near = place = pairs = stops = 0
        ended = final = close = False  # `final`: the previous line ends so
        last_end = -3  # in the line
        for i in range(start, end + 1):
            byte = data[i] if i < end else np.uint8(_NEWLINE)
            if byte > 63:
                continue
            if byte > 32:
                stops += (byte == 46) | (byte == 33) | (byte == 63)
                continue
            if i > start:  # a word ends
                first = np.int64(data[start])
                if first >= 0x80:
                    first, _ = decode(data, start)
                case = kind_of(cases, first)
                small += case == 1
                after += ended and case == 1
                ended = (stops == 1 or data[i - 1] >= 0x80) and _ends_sentence(data, start, i, kinds)
                capitals += case == 2 and i - start > 2
                words += 1
                pairs += min(place, 2)
                if final and case != 2:
                    ends -= 1
                    near -= close
                final = False
                if ended:
                    ends += 1
                    close = place - last_end <= 2
                    near += close
                    last_end = place
                place += 1
            start = i + 1
            stops = 0
            if byte == _NEWLINE:
                final = final or ended
                place, last_end, ended = 0, -3, False
        if not words:
            continue
        share_of_ends = ends / words
        found[text], expected[text] = near, pairs * share_of_ends * share_of_ends
        if 5 * capitals >= 4 * ends:
            found[text] += after
            expected[text] += ends * small / words


@compiled
def _ends_sentence(data: NDArray[np.uint8], start: int, end: int, kinds: NDArray[np.uint8]) -> bool:
    """Return whether a word with at most one full stop, ! or ? ends a sentence."""
    last = data[end - 1]
    if last < 0x80:
        if end - start < 4 or kinds[last] & STOP == 0:
            return False
        before = data[end - 2]
        return bool(before >= 0x80 or kinds[before] & LETTER != 0)
    i = end - 1
    while data[i] & 0xC0 == 0x80:
        i -= 1
    code, _ = decode(data, i)
    return bool(kind_of(kinds, code) & STOP != 0)


@compiled
def _letter_patterns(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int32],
    kinds: NDArray[np.uint8],
    lower: NDArray[np.uint32],
    result: Values,
) -> None:
    most = WINDOWS * WINDOW
    letters = np.empty(most + WINDOWS, np.uint64)  # 0 between words
    alone, keys = np.empty(most, np.uint64), np.empty(most, np.uint64)
    slots, counts = np.zeros(4 * most, np.uint64), np.zeros(4 * most, np.int32)
    for text in range(result.size):
        first, end = int(offsets[text]), int(offsets[text + 1])
        windows = WINDOWS if end - first > most else 1
        many = single = pairs = triples = run = 0
        for window in range(windows):
            i = first + window * ((end - first - WINDOW) // (WINDOWS - 1))
            stop = min(end, i + WINDOW) if windows > 1 else end
            last = single + _LETTERS if windows > 1 else most
            while i < stop and data[i] & 0xC0 == 0x80:
                i += 1
            while i <= stop:
                code, letter = np.int64(0), False
                if i < stop and single < last:
                    code, i = decode(data, i)
                    letter = kind_of(kinds, code) & LETTER != 0
                else:
                    i = stop + 1
                if letter:
                    letters[many] = alone[single] = np.uint64(lower[code]) + np.uint64(1)
                    many += 1
                    single += 1
                    run += 1
                    pairs += run > 1
                    triples += run > 2
                elif run:
                    letters[many] = 0
                    many += 1
                    run = 0
        if single < 2:
            continue
        chance = 2.0 * collisions(alone[:single], slots, counts) / (single * (single - 1.0))
        if chance < _RANDOM and single >= _ENOUGH:
            result[text] = 0
            continue
        length = 3
        expected = triples * (triples - 1.0) / 2 * chance**3
        if expected < _TRIPLES:
            length = 2
            expected = pairs * (pairs - 1.0) / 2 * chance**2
            if chance >= _LARGE or expected < (_SYLLABLES if chance < _SYLLABARY else _PAIRS):
                continue
        size = 0
        for i in range(length - 1, many):
            key = np.uint64(0)
            for k in range(i - length + 1, i + 1):
                key = key << np.uint64(20) | letters[k] if letters[k] else np.uint64(0)
                if key == 0:
                    break
            if key:
                keys[size] = key
                size += 1
        found = collisions(keys[:size], slots, counts) / expected
        result[text] = found * found if length == 2 and chance >= _SYLLABARY else found


@compiled
def _running_words(
    word_starts: Pieces,
    line_starts: Pieces,
    line_words: NDArray[np.int32],
    punctuated: NDArray[np.bool_],
    ends: NDArray[np.bool_],
    running: Pieces,
) -> None:
    for text in range(running.size):
        word = word_starts[text]
        for line in range(line_starts[text], line_starts[text + 1]):
            last = word + line_words[line]
            length = 0
            while word < last:
                length += not ends[word]
                word += 1
                if ends[word - 1] or word == last:
                    if length >= _LINE_WORDS or (word == last and punctuated[line]):
                        running[text] += length
                    length = 0
