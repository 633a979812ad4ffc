"""Repetitions, counted by hash: lines, paragraphs and n-grams of words."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from homegrown.corpus.compiled import compiled

Pieces: TypeAlias = NDArray[np.int64]

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
def repeated_ngrams(starts: Pieces, hashes: NDArray[np.uint64], lengths: NDArray[np.int32]) -> tuple[Pieces, Pieces]:
    """Return by text the most common 2- to 4-gram and the repeated 5- to 10-grams: (3, n) and (6, n) int64.

    The first has the length of the most common n-gram, with spaces between words, times its count; of equally common
    ones, the first counts. The second has the characters, without spaces, of n-grams that occurred before; no character
    counts twice: after a repeated n-gram the next one starts behind it.

    An n-gram repeats only if both (n - 1)-grams in it do, so only these are looked up.
    """
    tops, duplicates = np.zeros((3, starts.size - 1), np.int64), np.zeros((6, starts.size - 1), np.int64)
    longest = _longest(starts)
    most = _slots(longest)
    keys, numbers, firsts = np.empty(most, np.uint64), np.empty(most, np.int32), np.empty(most, np.int32)
    slots, runs = np.empty(longest, np.int64), np.empty(longest + 1, np.int64)
    prefixes = np.zeros(longest + 1, np.uint64)
    for text in range(starts.size - 1):
        own = hashes[starts[text] : starts[text + 1]]
        sizes = lengths[starts[text] : starts[text + 1]]
        words = own.size
        for i in range(words):
            prefixes[i + 1] = prefixes[i] * _BASE + own[i]
        runs[: words + 1] = 2  # by word: the number of n-grams in a row from here on that repeat
        for n in range(2, min(4, words) + 1):
            best, best_first = _count_ngrams(prefixes, words, n, runs, slots, keys, numbers, firsts)
            length = n - 1
            for i in range(best_first, best_first + n):
                length += sizes[i]
            tops[n - 2, text] = best * length
            runs[words - n + 1] = 0
            for i in range(words - n, -1, -1):
                runs[i] = runs[i + 1] + 1 if slots[i] >= 0 and numbers[slots[i]] > 1 else 0
        for n in range(5, min(10, words - 1) + 1):
            for i in _again(prefixes, words, n, runs, keys):
                for k in range(i, i + n):
                    duplicates[n - 5, text] += sizes[k]
            if duplicates[n - 5, text] == 0:
                break
    return tops, duplicates


@compiled
def _count_ngrams(
    prefixes: NDArray[np.uint64],
    words: int,
    n: int,
    runs: Pieces,
    slots: Pieces,
    keys: NDArray[np.uint64],
    numbers: NDArray[np.int32],
    firsts: NDArray[np.int32],
) -> tuple[int, int]:
    """Count the n-grams that may repeat; return the count of the most common one and its first place.

    `slots` gets the place of each n-gram's number in `numbers`, -1 where it cannot repeat.
    """
    many = 0
    for i in range(words - n + 1):
        many += runs[i] > 1
    seen = keys[: _slots(many)]
    seen[:] = 0
    leading = _power(n)
    best = best_first = 0
    for i in range(words - n + 1):
        slots[i] = -1
        if runs[i] < 2:
            continue
        key = max(prefixes[i + n] - prefixes[i] * leading, np.uint64(1))
        slot = _find(seen, key)
        if seen[slot] != key:
            seen[slot], numbers[slot], firsts[slot] = key, 0, i
        slots[i] = slot
        numbers[slot] += 1
        if numbers[slot] > best or (numbers[slot] == best and firsts[slot] < best_first):
            best, best_first = numbers[slot], firsts[slot]
    return (best, best_first) if best > 1 else (1, 0)


@compiled
def _again(
    prefixes: NDArray[np.uint64], words: int, n: int, runs: Pieces, keys: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Return the places of the n-grams that occurred before, each behind the previous one; `runs` are of 4-grams."""
    many = 0
    for i in range(words - n + 1):
        many += runs[i] > n - 4
    places = np.empty(many, np.int64)
    seen = keys[: _slots(many)]
    seen[:] = 0
    leading = _power(n)
    count = i = 0
    while i <= words - n:
        if runs[i] > n - 4:
            key = max(prefixes[i + n] - prefixes[i] * leading, np.uint64(1))
            slot = _find(seen, key)
            if seen[slot] == key:
                places[count] = i
                count += 1
                i += n
                continue
            seen[slot] = key
        i += 1
    return places[:count]


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
