"""Texts split for measuring: words, lines and paragraphs as flat arrays, in one compiled pass.

White space separates words as in `str.split`, punctuation included; in scripts without spaces the segmenter does.
Characters are code points.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from homegrown.corpus.characters import ALONE, BREAK, CODE_POINTS, LETTER, MARK, SPACE, STOP, characters, decode
from homegrown.corpus.compiled import buffers, compiled
from homegrown.corpus.quality.repeats import Pieces, repeated_ngrams
from homegrown.corpus.segmenter import word_ends

Values: TypeAlias = NDArray[np.float64]

_OFFSET = np.uint64(0xCBF29CE484222325)  # FNV-1a, 64 bits, over code points
_PRIME = np.uint64(0x100000001B3)
_NEWLINE, _RETURN, _HASH, _DASH, _DOT, _BULLET, _ELLIPSIS = 10, 13, 35, 45, 46, 0x2022, 0x2026


class Words(NamedTuple):
    """Words of all texts in order; those of text i are `starts[i]` to `starts[i + 1]`."""

    starts: Pieces
    hashes: NDArray[np.uint64]
    lengths: NDArray[np.int32]  # characters
    letters: NDArray[np.bool_]  # has a letter
    symbols: NDArray[np.bool_]  # has only punctuation


class Lines(NamedTuple):
    """Nonempty lines, split at newlines only, with the white space around them."""

    starts: Pieces
    hashes: NDArray[np.uint64]
    lengths: NDArray[np.int32]
    words: NDArray[np.int32]  # number of words
    blank: NDArray[np.bool_]  # white space alone
    punctuated: NDArray[np.bool_]  # the last character ends a sentence
    follows: NDArray[np.bool_]  # follows the previous line without an empty line


class Rows(NamedTuple):
    """Lines of `str.splitlines`, including empty ones."""

    starts: Pieces
    bullets: NDArray[np.bool_]  # starts with • or -, ignoring white space
    ellipses: NDArray[np.bool_]  # ends in ... or …, ignoring white space


class Paragraphs(NamedTuple):
    """Paragraphs, separated by two newlines or more, except blank ones."""

    starts: Pieces
    hashes: NDArray[np.uint64]
    lengths: NDArray[np.int32]


class Counts(NamedTuple):
    """By text, int64: `visible` counts characters other than white space, `ellipses` counts ... and … ."""

    characters: Pieces
    letters: Pieces
    visible: Pieces
    newlines: Pieces
    hashes: Pieces
    ellipses: Pieces


class StopWords(NamedTuple):
    """Hashes of the stop words of each language; those of text i are `starts[lists[i]]` to `starts[lists[i] + 1]`."""

    lists: Pieces
    starts: Pieces
    hashes: NDArray[np.uint64]


@dataclass(frozen=True)
class Texts:
    """n split texts."""

    stop_words: StopWords
    counts: Counts
    words: Words
    lines: Lines
    rows: Rows
    paragraphs: Paragraphs

    @cached_property
    def ngrams(self) -> tuple[Pieces, Pieces]:
        """The most common and the repeated n-grams (`homegrown.corpus.quality.repeats.repeated_ngrams`)."""
        return repeated_ngrams(self.words.starts, self.words.hashes, self.words.lengths)


class Lined(NamedTuple):
    """Nonempty lines of n texts, as in `Lines`; by text, the numbers of characters, newlines and words, int64."""

    starts: Pieces
    hashes: NDArray[np.uint64]
    lengths: NDArray[np.int32]
    blank: NDArray[np.bool_]
    punctuated: NDArray[np.bool_]
    characters: Pieces
    newlines: Pieces
    words: Pieces


ENGLISH = ("the", "be", "to", "of", "and", "that", "have", "with")  # Gopher's stop words


def stop_word_lists(lists: Sequence[int], words: Sequence[Sequence[str]]) -> StopWords:
    """Return stop words by language, and the number of the language of each text."""
    starts = np.cumsum([0, *map(len, words)])
    hashes = np.array([hash_of(word) for language in words for word in language], np.uint64)
    return StopWords(np.array(lists, np.int64), starts.astype(np.int64), hashes)


def take_apart(texts: pa.StringArray, stop_words: StopWords | None = None, ends: Pieces | None = None) -> Texts:
    """Split every text of an Arrow array without nulls; stop words are English by default.

    `ends` are the texts' `word_ends`, if they are known. Memory: about three times the texts.
    """
    data, offsets = buffers(texts)
    n = len(texts)
    text_bytes = int(offsets[-1] - offsets[0])
    newlines, breaks = _bounds(data, offsets)
    counts = Counts(*(np.zeros(n, np.int64) for _ in Counts._fields))
    words = Words(*_columns(n, text_bytes // 2 + n, Words))
    lines = Lines(*_columns(n, newlines + n, Lines))
    rows = Rows(*_columns(n, breaks + n, Rows))
    paragraphs = Paragraphs(*_columns(n, newlines + n, Paragraphs))
    ends = word_ends(data, offsets) if ends is None else ends
    _take_apart(data, offsets, characters().kinds, ends, counts, words, lines, rows)
    _join_lines(lines, paragraphs)
    stop_words = stop_words or stop_word_lists([0] * n, [ENGLISH])
    tables = (Words(*_filled(words)), Lines(*_filled(lines)), Rows(*_filled(rows)), Paragraphs(*_filled(paragraphs)))
    return Texts(stop_words, counts, *tables)


def lined(texts: Texts) -> Lined:
    """Return the lines of texts that are split already."""
    lines, counts = texts.lines, texts.counts
    return Lined(
        *(lines.starts, lines.hashes, lines.lengths, lines.blank, lines.punctuated),
        *(counts.characters, counts.newlines, np.diff(texts.words.starts)),
    )


def split_lines(texts: pa.StringArray) -> Lined:
    """Split every text of an Arrow array without nulls into lines; their hashes differ from those of `take_apart`."""
    data, offsets = buffers(texts)
    n = len(texts)
    most = int(np.count_nonzero(data[offsets[0] : offsets[-1]] == _NEWLINE)) + n
    result = Lined(
        np.zeros(n + 1, np.int64),
        np.empty(most, np.uint64),
        np.empty(most, np.int32),
        np.empty(most, np.bool_),
        np.empty(most, np.bool_),
        *(np.zeros(n, np.int64) for _ in range(3)),
    )
    _split_lines(data, offsets, characters().kinds, word_ends(data, offsets), result)
    used = slice(result.starts[-1])
    return result._replace(
        hashes=result.hashes[used],
        lengths=result.lengths[used],
        blank=result.blank[used],
        punctuated=result.punctuated[used],
    )


def hash_of(word: str) -> int:
    """Return the hash of a word in `Words.hashes`."""
    value = int(_OFFSET)
    for character in word:
        value = (value ^ ord(character)) * int(_PRIME) % 2**64
    return value


def share(part: Pieces, total: Pieces) -> Values:
    """Return part / total by text; 0 for a total of 0."""
    result: Values = part / np.maximum(total, 1)
    return result


@compiled
def total(starts: Pieces, values: NDArray[Any]) -> Pieces:
    """Return the sum of `values`, one per word or line, by text: (n,) int64."""
    result = np.zeros(starts.size - 1, np.int64)
    for text in range(result.size):
        for i in range(starts[text], starts[text + 1]):
            result[text] += values[i]
    return result


def _columns(n: int, most: int, table: type[NamedTuple]) -> list[NDArray[Any]]:
    """Return the columns of a table of at most `most` pieces of n texts."""
    kinds = {"hashes": np.uint64, "lengths": np.int32, "words": np.int32}
    pieces = (np.empty(most, kinds.get(name, np.bool_)) for name in table._fields[1:])
    return [np.zeros(n + 1, np.int64), *pieces]


def _filled(table: Words | Lines | Rows | Paragraphs) -> list[NDArray[Any]]:
    """Return the columns of a table without the unused rest."""
    return [table.starts, *(column[: table.starts[-1]] for column in table[1:])]


@compiled
def _bounds(data: NDArray[np.uint8], offsets: NDArray[np.int32]) -> tuple[int, int]:
    """Return the number of newlines, and an upper bound of line breaks by the first bytes of their UTF-8."""
    newlines = breaks = 0
    for i in range(offsets[0], offsets[-1]):
        newlines += data[i] == _NEWLINE
        breaks += 10 <= data[i] <= 30 or data[i] == 0xC2 or data[i] == 0xE2
    return newlines, breaks


@compiled
def kind_of(kinds: NDArray[np.uint8], code: np.int64) -> np.uint8:
    """Return the class of a code point."""
    return kinds[code] if code < CODE_POINTS else np.uint8(0)


@compiled
def _take_apart(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int32],
    kinds: NDArray[np.uint8],
    ends: Pieces,
    counts: Counts,
    words: Words,
    lines: Lines,
    rows: Rows,
) -> None:
    """Fill the tables. The hash of a line is made of its words' hashes and the white space between them."""
    word_place = line_place = row_place = place = line_word = 0
    for text in range(offsets.size - 1):
        i, end = int(offsets[text]), int(offsets[text + 1])
        characters_ = letters = spaces = newlines = hashes = ellipses = 0
        word, length, letter, symbol = _OFFSET, 0, False, True
        line, line_start, blank = _OFFSET, 0, True
        first, last, ending = np.int64(0), np.int64(0), np.uint8(0)
        dots = blanks_before = 0
        inside = False  # in a word of a script without spaces
        goes_on = True  # no word of such a script ends here
        while i < end:
            code, i = decode(data, i)
            kind = kind_of(kinds, code)
            characters_ += 1
            space = kind & SPACE != 0
            if kind & ALONE:
                if length and not inside:
                    _add_word(words, word_place, word, length, letter, symbol)
                    word_place += 1
                    line = (line ^ word) * _PRIME
                    blank = False
                    word, length, letter, symbol = _OFFSET, 0, False, True
                while place < ends.size and ends[place] < i:
                    place += 1
                inside = goes_on = not (place < ends.size and ends[place] == i)
            if not space:
                if not length:
                    first = first or code
                    dots = 0
                word = (word ^ np.uint64(code)) * _PRIME
                length += 1
                if kind & LETTER:
                    letters += 1
                    letter = True
                    dots = 0
                else:
                    hashes += code == _HASH
                    dots = dots + 1 if code == _DOT else 0
                    ellipses += code == _ELLIPSIS or (dots > 0 and dots % 3 == 0)
                if not kind & MARK:
                    symbol = False
                last, ending = code, kind
                if i < end and goes_on:
                    continue
                goes_on = True
            if length:
                _add_word(words, word_place, word, length, letter, symbol)
                word_place += 1
                line = (line ^ word) * _PRIME
                blank = False
                word, length, letter, symbol = _OFFSET, 0, False, True
            if space:
                spaces += 1
                if code != _NEWLINE:
                    line = (line ^ np.uint64(code)) * _PRIME
                    ending = kind
            if code == _NEWLINE or i >= end:
                newline = code == _NEWLINE
                newlines += newline
                many = characters_ - newline - line_start
                if many:
                    lines.hashes[line_place] = line
                    lines.lengths[line_place] = many
                    lines.words[line_place] = word_place - line_word
                    line_word = word_place
                    lines.blank[line_place] = blank
                    lines.punctuated[line_place] = ending & STOP != 0
                    lines.follows[line_place] = blanks_before == 1
                    line_place += 1
                    blanks_before = 0
                blanks_before += 1
                line, line_start, blank = _OFFSET, characters_, True
            if kind & BREAK or i >= end:
                if code == _RETURN and i < end and data[i] == _NEWLINE:
                    continue
                rows.bullets[row_place] = first in (_BULLET, _DASH)
                rows.ellipses[row_place] = last == _ELLIPSIS or (last == _DOT and dots >= 3)
                row_place += 1
                first = last = np.int64(0)
        words.starts[text + 1] = word_place
        lines.starts[text + 1] = line_place
        rows.starts[text + 1] = row_place
        counts.characters[text] = characters_
        counts.letters[text] = letters
        counts.visible[text] = characters_ - spaces
        counts.newlines[text] = newlines
        counts.hashes[text] = hashes
        counts.ellipses[text] = ellipses


@compiled
def _split_lines(
    data: NDArray[np.uint8], offsets: NDArray[np.int32], kinds: NDArray[np.uint8], ends: Pieces, result: Lined
) -> None:
    line = 0
    for text in range(offsets.size - 1):
        i, end = int(offsets[text]), int(offsets[text + 1])
        while i < end:
            start = i
            every = np.uint8(0)
            while i < end and data[i] != _NEWLINE:
                every |= data[i]
                i += 1
            size = i - start
            if every < 0x80:
                words = _ascii_words(data[start:i])
            else:
                size = _characters(data[start:i])
                words = _words(data, start, i, kinds, ends)
            result.words[text] += words
            result.characters[text] += size + (i < end)
            result.newlines[text] += i < end
            if size:
                last = i - 1
                while data[last] & 0xC0 == 0x80:
                    last -= 1
                code, _ = decode(data, last)
                result.hashes[line] = _hash(data[start:i])
                result.lengths[line] = size
                result.blank[line] = words == 0
                result.punctuated[line] = kind_of(kinds, code) & STOP != 0
                line += 1
            i += 1
        result.starts[text + 1] = line


@compiled
def _hash(data: NDArray[np.uint8]) -> np.uint64:
    """Return a hash of bytes, eight at a time."""
    value = _OFFSET
    for number in range(data.size // 8):
        part = data[8 * number : 8 * number + 8]
        block = np.uint64(0)
        for k in range(8):
            block |= np.uint64(part[k]) << np.uint64(8 * k)
        value = (value ^ block) * _PRIME
        value ^= value >> np.uint64(32)
    for byte in data[data.size // 8 * 8 :]:
        value = (value ^ np.uint64(byte)) * _PRIME
    return value


@compiled
def _characters(data: NDArray[np.uint8]) -> int:
    count = 0
    for byte in data:
        count += byte & 0xC0 != 0x80
    return count


@compiled
def _ascii_words(data: NDArray[np.uint8]) -> int:
    count = int(data.size > 0 and _ascii_space(data[0]) == 0)
    after = data[1:]
    for k in range(after.size):  # no branch, so it vectorizes
        count += int(_ascii_space(data[k]) & (np.uint8(1) ^ _ascii_space(after[k])))
    return count


@compiled
def _ascii_space(byte: np.uint8) -> np.uint8:
    control = np.uint8(np.uint8(byte - np.uint8(9)) < np.uint8(5)) | np.uint8(
        np.uint8(byte - np.uint8(28)) < np.uint8(4)
    )
    return np.uint8(byte == np.uint8(32)) | control


@compiled
def _words(data: NDArray[np.uint8], start: int, end: int, kinds: NDArray[np.uint8], ends: Pieces) -> int:
    """Return the number of words, as `_take_apart` splits them."""
    count = length = 0
    place = -1
    inside = False  # in a word of a script without spaces
    goes_on = True  # no word of such a script ends here
    i = start
    while i < end:
        code, i = decode(data, i)
        kind = kind_of(kinds, code)
        if kind & ALONE:
            if length and not inside:
                count += 1
                length = 0
            place = int(np.searchsorted(ends, i)) if place < 0 else place
            while place < ends.size and ends[place] < i:
                place += 1
            inside = goes_on = not (place < ends.size and ends[place] == i)
        if not kind & SPACE:
            length += 1
            if i < end and goes_on:
                continue
            goes_on = True
        count += length > 0
        length = 0
    return count


@compiled
def _add_word(words: Words, place: int, word: np.uint64, length: int, letter: bool, symbol: bool) -> None:
    words.hashes[place] = word
    words.lengths[place] = length
    words.letters[place] = letter
    words.symbols[place] = symbol


@compiled
def _join_lines(lines: Lines, paragraphs: Paragraphs) -> None:
    """Join lines separated by one newline to paragraphs; blank ones do not count."""
    place = 0
    for text in range(lines.starts.size - 1):
        first = place
        visible = False
        for i in range(lines.starts[text], lines.starts[text + 1]):
            if place > first and lines.follows[i]:
                paragraphs.hashes[place - 1] = (paragraphs.hashes[place - 1] ^ lines.hashes[i]) * _PRIME
                paragraphs.lengths[place - 1] += 1 + lines.lengths[i]
            else:
                if visible or place == first:
                    place += 1
                visible = False
                paragraphs.hashes[place - 1] = lines.hashes[i]
                paragraphs.lengths[place - 1] = lines.lengths[i]
            visible = visible or not lines.blank[i]
        if place > first and not visible:
            place -= 1
        paragraphs.starts[text + 1] = place
