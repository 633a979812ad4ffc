"""A text split into words in one compiled pass: lower case, place of each word, and hashes of words and text.

ASCII is handled in blocks of 64 bytes: vectorized classes become the bits of one integer, whose edges are the starts
and ends of words. Other characters go one by one through the tables of `homegrown.corpus.characters`. Both write the
text in lower case as UTF-8 with every white space as a space.
"""

from typing import NamedTuple

import numpy as np
from numba.cpython.unsafe.numbers import trailing_zeros
from numpy.typing import NDArray

from homegrown.corpus.characters import ALONE, CODE_POINTS, LETTER, SPACE, WORD, Characters, decode
from homegrown.corpus.compiled import compiled

SEED = np.uint64(0xCBF29CE484222325)
WORD_PRIME = np.uint64(0x9FB21C651E98DF25)  # odd
_FIRST_PRIME = np.uint64(0x100000001B3)  # Fowler, Noll, Vo: FNV-1a, 64 bits
_SECOND_PRIME = np.uint64(0xC2B2AE3D27D4EB4F)  # odd; a second hash of the text, for 128 bits in all
_BETWEEN = np.uint64(0xD6E8FEB86659FD93)  # odd

_BLOCK = 64  # bytes of ASCII per block: the bits of an integer
_ONES = np.uint64(0x0102040810204080)  # gathers the lowest bits of eight bytes in the highest byte
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


class Scratch(NamedTuple):
    """Arrays for the parts of a text, allocated once for many texts by `scratch`.

    `lower` (uint64 and, in the same memory, uint8): the text in lower case; `words` (uint64): the words' hashes;
    `starts`, `ends` (uint32): place of each word in `lower`; `flags` (as uint8 and uint64): of one block.
    """

    lower_eights: NDArray[np.uint64]
    lower: NDArray[np.uint8]
    words: NDArray[np.uint64]
    starts: NDArray[np.uint32]
    ends: NDArray[np.uint32]
    flags: NDArray[np.uint8]
    flag_eights: NDArray[np.uint64]


class Found(NamedTuple):
    """Counts of characters, letters and words of a text, and its 128-bit hash in two halves.

    The hash is of the text in lower case with white space folded: none at both ends, elsewhere one space.
    """

    length: int
    letters: int
    words: int
    high: np.uint64
    low: np.uint64


def scratch(longest: int, limit: int) -> Scratch:
    """Return arrays for texts of at most `longest` bytes; only the first `limit` characters are split into words."""
    eights = np.zeros((longest * 3 // 2 + 2 * _BLOCK) // 8, np.uint64)  # lower case may take three bytes for two
    words = min(longest, limit) + 2
    flags = np.zeros(_BLOCK // 8, np.uint64)
    starts, ends = np.empty(words, np.uint32), np.empty(words, np.uint32)
    return Scratch(eights, eights.view(np.uint8), np.empty(words, np.uint64), starts, ends, flags.view(np.uint8), flags)


@compiled
def split(
    data: NDArray[np.uint8],
    start: int,
    end: int,
    tables: Characters,
    space: Scratch,
    limit: int,
    word_ends: NDArray[np.int64] | None,
) -> Found:
    """Split the UTF-8 text in bytes `start` to `end` of `data` into words; fill `space`.

    Only the first `limit` characters are split into words. In scripts without spaces, words end at `word_ends`
    (`homegrown.corpus.segmenter`); if that is None, each character is a word.
    """
    size, length, letters, count = _cut(data, start, end, tables, space, limit, word_ends)
    high, low = _hash(space, size, count)
    return Found(length, letters, count, high, low)


@compiled
def _cut(
    data: NDArray[np.uint8],
    start: int,
    end: int,
    tables: Characters,
    space: Scratch,
    limit: int,
    word_ends: NDArray[np.int64] | None,
) -> tuple[int, int, int, int]:
    """Fill `lower`, `starts` and `ends`; return counts of bytes in `lower`, characters, letters and words."""
    lower, starts, ends, flags, eights = space.lower, space.starts, space.ends, space.flags, space.flag_eights
    size = length = letters = count = 0
    inside = joined = False  # joined: the word is of a script without spaces
    place = 0
    i = start
    while i < end:
        if end - i >= _BLOCK and length + _BLOCK <= limit:
            ascii_letters = _classify(data, np.uint64(i), lower, np.uint64(size), flags)
            if ascii_letters >= 0:
                bits = np.uint64(0)
                for eight in range(_BLOCK // 8):
                    bits |= ((eights[eight] * _ONES) >> np.uint64(56)) << np.uint64(8 * eight)
                edges = bits ^ (bits << np.uint64(1) | np.uint64(inside))  # starts and ends of words, alternating
                if inside and edges:
                    ends[count] = size + trailing_zeros(edges)
                    count += 1
                    edges &= edges - np.uint64(1)
                while edges:
                    starts[count] = size + trailing_zeros(edges)
                    edges &= edges - np.uint64(1)
                    if not edges:
                        break
                    ends[count] = size + trailing_zeros(edges)
                    count += 1
                    edges &= edges - np.uint64(1)
                inside = bits >> np.uint64(63) != 0
                i += _BLOCK
                size += _BLOCK
                length += _BLOCK
                letters += ascii_letters
                continue
        stop = min(end, i + _BLOCK)
        while i < stop:
            code, i = decode(data, i)
            length += 1
            kind = np.uint8(0)
            if code < CODE_POINTS:
                kind = tables.kinds[code]
                code = np.int64(tables.lower[code])
            letters += kind & LETTER != 0
            in_word = kind & WORD != 0 and length <= limit
            if inside and (not in_word or (kind & ALONE and not joined)):
                ends[count] = size
                count += 1
                inside = False
            if in_word and not inside:
                starts[count] = size
            size = _encode(np.int64(32) if kind & SPACE else code, lower, size)
            inside, joined = in_word, False
            if in_word and kind & ALONE:
                if word_ends is not None:
                    if not place:
                        place = int(np.searchsorted(word_ends, start))
                    while place < word_ends.size and word_ends[place] < i:
                        place += 1
                    joined = not (place < word_ends.size and word_ends[place] == i)
                if not joined:
                    ends[count] = size
                    count += 1
                    inside = False
    if inside:
        ends[count] = size
        count += 1
    return size, length, letters, count


@compiled
def _classify(
    data: NDArray[np.uint8], i: np.uint64, lower: NDArray[np.uint8], size: np.uint64, flags: NDArray[np.uint8]
) -> int:
    """Write a block in lower case, and for each byte whether it belongs to a word; return the number of letters.

    It has neither possibly negative indices nor branches, so that it vectorizes. Returns -1 if the block is not all
    ASCII; the written bytes are then invalid.
    """
    letters = np.uint8(0)
    every = np.uint8(0)
    for k in range(_BLOCK):
        byte = data[i + np.uint64(k)]
        every = np.uint8(every | byte)
        small = np.uint8(byte | np.uint8(32))
        letter = np.uint8(small - np.uint8(97)) < np.uint8(26)
        digit = np.uint8(byte - np.uint8(48)) < np.uint8(10)
        space = (np.uint8(byte - np.uint8(9)) < np.uint8(5)) | (np.uint8(byte - np.uint8(28)) < np.uint8(5))
        lower[size + np.uint64(k)] = np.uint8(32) if space else small if letter else byte
        flags[k] = np.uint8(letter | digit | (byte == np.uint8(95)))
    for k in range(_BLOCK):
        letters = np.uint8(letters + np.uint8(np.uint8(lower[size + np.uint64(k)] - np.uint8(97)) < np.uint8(26)))
    return int(letters) if every < 128 else -1


@compiled
def _encode(code: np.int64, lower: NDArray[np.uint8], size: int) -> int:
    """Write a character as UTF-8; return the place of the next one."""
    if code < 0x80:
        lower[size] = code
        return size + 1
    if code < 0x800:
        lower[size] = 0xC0 | code >> 6
        lower[size + 1] = 0x80 | code & 0x3F
        return size + 2
    if code < 0x10000:
        lower[size] = 0xE0 | code >> 12
        lower[size + 1] = 0x80 | code >> 6 & 0x3F
        lower[size + 2] = 0x80 | code & 0x3F
        return size + 3
    lower[size] = 0xF0 | code >> 18
    lower[size + 1] = 0x80 | code >> 12 & 0x3F
    lower[size + 2] = 0x80 | code >> 6 & 0x3F
    lower[size + 3] = 0x80 | code & 0x3F
    return size + 4


@compiled
def _hash(space: Scratch, size: int, count: int) -> tuple[np.uint64, np.uint64]:
    """Fill `words`; return the text's hash, made of the words' hashes and the bytes between them."""
    lower, eights, starts, ends, words = space.lower, space.lower_eights, space.starts, space.ends, space.words
    for word in range(count):
        words[word] = _hash_word(eights, np.uint64(starts[word]), np.uint64(ends[word]))
    high, low = SEED, SEED
    place = np.uint32(0)
    for word in range(count):
        start = starts[word]
        value = words[word]
        if word and (start == place + np.uint32(1) or _is_blank(lower, place, start)):
            value ^= np.uint64(lower[place]) * _BETWEEN  # the usual single space or hyphen, hashed with the word
        else:
            high, low = _hash_between(lower, place, start, high, low, word == 0, False)
        place = ends[word]
        high, low = (high ^ value) * _FIRST_PRIME, (low ^ value) * _SECOND_PRIME
    return _hash_between(lower, place, np.uint32(size), high, low, count == 0, True)


@compiled
def _hash_word(eights: NDArray[np.uint64], start: np.uint64, end: np.uint64) -> np.uint64:
    """Return the hash of a word: of its bytes, padded with zeros to a multiple of 16, eight at a time."""
    value = SEED
    while start < end:
        value = (value ^ _eight(eights, start, end)) * WORD_PRIME
        value ^= value >> np.uint64(32)
        value = (value ^ _eight(eights, start + np.uint64(8), end)) * WORD_PRIME
        value ^= value >> np.uint64(32)
        start += np.uint64(16)
    return value


@compiled
def _eight(eights: NDArray[np.uint64], start: np.uint64, end: np.uint64) -> np.uint64:
    """Return the eight bytes from `start` as a little-endian integer, with zeros from `end` on."""
    index, shift = start >> np.uint64(3), (start & np.uint64(7)) << np.uint64(3)
    value = eights[index] >> shift | (eights[index + np.uint64(1)] << np.uint64(1)) << (np.uint64(63) - shift)
    valid = min(max(np.int64(end) - np.int64(start), np.int64(0)), np.int64(8))
    spare = np.uint64(np.int64(32) - np.int64(4) * valid)  # half the bits to clear: a shift by 64 is undefined
    return np.uint64(value & (_ALL >> spare) >> spare)


@compiled
def _is_blank(lower: NDArray[np.uint8], start: np.uint32, end: np.uint32) -> bool:
    """Return whether some bytes, at least one, are all white space."""
    for i in range(start, end):
        if lower[i] != 32:
            return False
    return bool(start < end)


@compiled
def _hash_between(
    lower: NDArray[np.uint8], start: np.uint32, end: np.uint32, high: np.uint64, low: np.uint64, first: bool, last: bool
) -> tuple[np.uint64, np.uint64]:
    """Hash the bytes between two words with white space folded, or without it at the ends of the text."""
    gap = False
    for i in range(start, end):
        byte = np.uint64(lower[i])
        if byte == 32:
            gap = True
            continue
        if gap and not first:
            high, low = (high ^ np.uint64(32)) * _FIRST_PRIME, (low ^ np.uint64(32)) * _SECOND_PRIME
        gap = first = False
        high, low = (high ^ byte) * _FIRST_PRIME, (low ^ byte) * _SECOND_PRIME
    if gap and not first and not last:
        high, low = (high ^ np.uint64(32)) * _FIRST_PRIME, (low ^ np.uint64(32)) * _SECOND_PRIME
    return high, low
