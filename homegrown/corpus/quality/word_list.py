"""Unwanted words and phrases of the user's own list: their share of a text.

C4 (Raffel et al. 2020) drops every page with a word of the "List of Dirty, Naughty, Obscene or Otherwise Bad Words".
This project has no list, because unwanted words depend on the language and the purpose.
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from homegrown.corpus.characters import ALONE, WORD, Characters, characters, decode
from homegrown.corpus.compiled import buffers, compiled
from homegrown.corpus.quality.repeats import Pieces
from homegrown.corpus.quality.texts import Values, kind_of, share
from homegrown.corpus.records import last_change
from homegrown.util.errors import UserError

_OFFSET, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)  # FNV-1a, 64 bits, over code points
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd: a phrase's hash is the polynomial of its words' hashes


class Listed(NamedTuple):
    """By text: words (runs of letters, marks and digits in lower case) that end a listed phrase, and all words."""

    listed: Pieces
    words: Pieces


def listed_words(found: Listed) -> Values:
    """Return the share of words that are on the list. Published (C4): none."""
    return share(found.listed, found.words)


def look_up(texts: pa.StringArray, path: str) -> Listed:
    """Look up every word of n texts in the list at `path`; raise UserError for an unreadable list."""
    entries, longest = _current(path)
    data, offsets = buffers(texts)
    found = Listed(np.zeros(len(texts), np.int64), np.zeros(len(texts), np.int64))
    _look_up(data, offsets, characters(), entries, longest, *found)
    return found


def check(path: str) -> None:
    """Raise UserError for an unreadable list."""
    _current(path)


def _current(path: str) -> tuple[NDArray[np.uint64], int]:
    """Return `_entries` of the file as it is now."""
    try:
        return _entries(path, last_change(Path(path).stat()))
    except OSError as error:
        raise UserError(f"filter.word_list.path: {path} cannot be read ({error.strerror}).") from error


@cache
def _entries(path: str, changed: int) -> tuple[NDArray[np.uint64], int]:
    """Return the sorted hashes of a list's words and phrases, and the number of words of the longest phrase.

    `changed` is the time of the file's last change: another one is another list.
    """
    try:
        if not Path(path).is_file():
            raise FileNotFoundError("not a file")
        lines = [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"filter.word_list.path: {path} cannot be read as UTF-8 text ({error}).") from error
    hashes, longest = [], 0
    for line in lines:
        data, offsets = buffers(pa.array([line]))
        words = np.empty(len(data), np.uint64)
        count = _words(data, int(offsets[0]), int(offsets[1]), characters(), words)
        if count:
            hashes.append(_phrase(words, 0, count))
            longest = max(longest, count)
    if not hashes:
        raise UserError(f"filter.word_list.path: {path} has no words; write one word or phrase per line.")
    return np.unique(np.array(hashes, np.uint64)), longest


@compiled
def _look_up(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int32],
    tables: Characters,
    entries: NDArray[np.uint64],
    longest: int,
    listed: Pieces,
    all_words: Pieces,
) -> None:
    for text in range(offsets.size - 1):
        words = np.empty(offsets[text + 1] - offsets[text], np.uint64)
        count = _words(data, int(offsets[text]), int(offsets[text + 1]), tables, words)
        all_words[text] = count
        for i in range(count):
            for size in range(1, min(longest, i + 1) + 1):
                phrase = _phrase(words, i + 1 - size, i + 1)
                place = np.searchsorted(entries, phrase)
                if place < entries.size and entries[place] == phrase:
                    listed[text] += 1
                    break


@compiled
def _words(data: NDArray[np.uint8], start: int, end: int, tables: Characters, words: NDArray[np.uint64]) -> int:
    """Fill `words` with the hashes of the words in bytes `start` to `end`; return their number."""
    count = 0
    word = _OFFSET
    i = start
    while i < end:
        code, i = decode(data, i)
        kind = kind_of(tables.kinds, code)
        if word != _OFFSET and (kind & ALONE or not kind & WORD):
            words[count], word = word, _OFFSET
            count += 1
        if kind & WORD:
            word = (word ^ np.uint64(tables.lower[code])) * _PRIME
            if kind & ALONE or i >= end:
                words[count], word = word, _OFFSET
                count += 1
    return count


@compiled
def _phrase(words: NDArray[np.uint64], first: int, end: int) -> np.uint64:
    phrase = np.uint64(end - first)
    for i in range(first, end):
        phrase = phrase * _BASE + words[i]
    return phrase
