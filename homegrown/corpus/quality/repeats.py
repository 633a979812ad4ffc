"""Repetitions, counted by hash: lines, paragraphs and n-grams of words."""

import numpy as np
from numpy.typing import NDArray

from homegrown.corpus.compiled import compiled
from homegrown.corpus.quality.texts import Pieces

_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd: an n-gram's hash is the polynomial of its words' hashes


@compiled
def repeated(starts: Pieces, hashes: NDArray[np.uint64], values: NDArray[np.int32]) -> Pieces:
    """Return by text the sum of the `values` of repeated pieces: (n,) int64."""
    result = np.zeros(starts.size - 1, np.int64)
    table = np.empty(_slots(_longest(starts)), np.uint64)
    for text in range(result.size):
        seen = table[: _slots(starts[text + 1] - starts[text])]
        seen[:] = 0
        for i in range(starts[text], starts[text + 1]):
            key = max(hashes[i], np.uint64(1))
            slot = _find(seen, key)
            if seen[slot] == key:
                result[text] += values[i]
            seen[slot] = key
    return result


@compiled
def equal_neighbors(
    starts: Pieces, hashes: NDArray[np.uint64], counted: NDArray[np.bool_], least: NDArray[np.float64]
) -> tuple[Pieces, NDArray[np.float64]]:
    """Return by text the number of `counted` words equal to the preceding one, and its mean over all orders of words.

    The mean is computed for texts with at least `least` of them, else it is 0.
    """
    found, expected = np.zeros(starts.size - 1, np.int64), np.zeros(starts.size - 1, np.float64)
    most = _slots(_longest(starts))
    keys, numbers = np.empty(most, np.uint64), np.empty(most, np.int32)
    for text in range(found.size):
        words = starts[text + 1] - starts[text]
        for i in range(starts[text] + 1, starts[text + 1]):
            found[text] += counted[i] and hashes[i] == hashes[i - 1]
        if found[text] < least[text]:
            continue
        seen = keys[: _slots(words)]
        seen[:] = 0
        pairs = 0
        for i in range(starts[text], starts[text + 1]):
            if not counted[i]:
                continue
            key = max(hashes[i], np.uint64(1))
            slot = _find(seen, key)
            if seen[slot] != key:
                seen[slot], numbers[slot] = key, 0
            pairs += numbers[slot]
            numbers[slot] += 1
        expected[text] = 2 * pairs / max(words, 1)
    return found, expected


@compiled
def collisions(values: NDArray[np.uint64], slots: NDArray[np.uint64], counts: NDArray[np.int32]) -> int:
    """Return the number of pairs of equal values, none of them 0; `slots` and `counts` are scratch of zeros."""
    size = _slots(values.size)
    seen = slots[:size]
    pairs = 0
    for value in values:
        slot = _find(seen, value * _BASE)
        seen[slot] = value * _BASE
        pairs += counts[slot]
        counts[slot] += 1
    seen[:] = 0
    counts[:size] = 0
    return pairs


@compiled
def top_ngram(starts: Pieces, hashes: NDArray[np.uint64], lengths: NDArray[np.int32], n: int) -> Pieces:
    """Return by text the length of its most common n-gram, with spaces between words, times its count: (n,) int64.

    Of equally common ones, the first counts.
    """
    result = np.zeros(starts.size - 1, np.int64)
    most = _slots(_longest(starts))
    keys = np.empty(most, np.uint64)
    numbers = np.empty(most, np.int32)
    firsts = np.empty(most, np.int32)
    leading = _power(n)
    for text in range(result.size):
        first_word, words = starts[text], starts[text + 1] - starts[text]
        if words < n:
            continue
        seen = keys[: _slots(words)]
        seen[:] = 0
        best = best_first = 0
        rolling = np.uint64(0)
        for i in range(words):
            rolling = rolling * _BASE + hashes[first_word + i]
            if i >= n:
                rolling -= hashes[first_word + i - n] * leading
            if i < n - 1:
                continue
            key = max(rolling, np.uint64(1))
            slot = _find(seen, key)
            if seen[slot] != key:
                seen[slot], numbers[slot], firsts[slot] = key, 0, i - n + 1
            numbers[slot] += 1
            if numbers[slot] > best or (numbers[slot] == best and firsts[slot] < best_first):
                best, best_first = numbers[slot], firsts[slot]
        length = n - 1
        for i in range(n):
            length += lengths[first_word + best_first + i]
        result[text] = best * length
    return result


@compiled
def duplicate_ngrams(starts: Pieces, hashes: NDArray[np.uint64], lengths: NDArray[np.int32], n: int) -> Pieces:
    """Return by text the characters, without spaces, of n-grams that occurred before: (n,) int64.

    No character counts twice: after a repeated n-gram the next one starts behind it.
    """
    result = np.zeros(starts.size - 1, np.int64)
    longest = _longest(starts)
    table = np.empty(_slots(longest), np.uint64)
    prefixes = np.zeros(longest + 1, np.uint64)
    leading = _power(n)
    for text in range(result.size):
        first, words = starts[text], starts[text + 1] - starts[text]
        if words <= n:
            continue
        for i in range(words):
            prefixes[i + 1] = prefixes[i] * _BASE + hashes[first + i]
        seen = table[: _slots(words)]
        seen[:] = 0
        i = 0
        while i <= words - n:
            key = max(prefixes[i + n] - prefixes[i] * leading, np.uint64(1))
            slot = _find(seen, key)
            if seen[slot] == key:
                for k in range(first + i, first + i + n):
                    result[text] += lengths[k]
                i += n
            else:
                seen[slot] = key
                i += 1
    return result


@compiled
def _power(n: int) -> np.uint64:
    power = np.uint64(1)
    for _ in range(n):
        power *= _BASE
    return power


@compiled
def _longest(starts: Pieces) -> int:
    longest = 0
    for i in range(starts.size - 1):
        longest = max(longest, starts[i + 1] - starts[i])
    return longest


@compiled
def _slots(keys: int) -> int:
    """Return the size of a hash table for `keys`: a power of two, at most half full."""
    size = 4
    while size < 2 * keys:
        size *= 2
    return size


@compiled
def _find(table: NDArray[np.uint64], key: np.uint64) -> int:
    """Return the slot of `key`, or the empty slot (0) for it, by linear probing."""
    slot = (key ^ key >> np.uint64(32)) & np.uint64(table.size - 1)
    while table[slot] != key and table[slot] != 0:
        slot = (slot + np.uint64(1)) & np.uint64(table.size - 1)
    return int(slot)
