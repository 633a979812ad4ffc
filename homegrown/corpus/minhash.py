"""MinHash signatures of texts: words, shingles and permutations in one compiled pass over Arrow's buffers.

A text is lower-cased and split into words with their hashes (`homegrown.corpus.splitting`). A shingle is the upper 32
bits of the polynomial of its words' hashes, mixed by MurmurHash3's finalizer. This is the `hashfunc`; pre-mix,
permutations and minimum are bit for bit those of `datasketch.MinHash(num_perm, seed, scheme="affine32")`.

In scripts without spaces, each character counts as a word of a shingle: five of them are about as long as three words,
so an edit changes fewer shingles, and signatures do not depend on dictionaries.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from homegrown.corpus.characters import Characters, characters
from homegrown.corpus.compiled import buffers, compiled
from homegrown.corpus.segmenter import word_ends
from homegrown.corpus.splitting import Scratch, scratch, split

LONGEST = 500_000  # characters to shingle; longer texts saturate signatures and join unrelated ones (Marin)

SHINGLE_WORDS = 5
SHINGLE_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, from the golden ratio


class Sets(NamedTuple):
    """The distinct shingles of n texts, and shares to rank texts by.

    `starts` (n + 1,) int64: start of each text's shingles in `shingles` (uint32, ascending within a text);
    `letters` (n,) float64: share of letters among the characters;
    `distinct` (n,) float64: share of distinct shingles, 1 without shingles.
    """

    starts: NDArray[np.int64]
    shingles: NDArray[np.uint32]
    letters: NDArray[np.float64]
    distinct: NDArray[np.float64]


class Sketches(NamedTuple):
    """Measurements of n texts.

    `digests` (n, 2) uint64: 128-bit hash of the text in lower case with white space folded;
    `lengths` (n,) int32: characters; `words` (n,) int32: words within the first 500,000 characters;
    `signatures` (n, permutations) uint32.
    """

    digests: NDArray[np.uint64]
    lengths: NDArray[np.int32]
    words: NDArray[np.int32]
    signatures: NDArray[np.uint32]


def permutations(count: int, seed: int) -> NDArray[np.uint32]:
    """Return datasketch's multipliers, which are odd, and addends of `count` permutations, (2, count) uint32."""
    draw = np.random.RandomState(seed % 2**32)  # datasketch itself imports SciPy, most of a second
    multipliers = draw.randint(0, 2**31, count, np.uint32) * np.uint32(2) + np.uint32(1)
    return np.array([multipliers, draw.randint(0, 2**32, count, np.uint32)])


def sketch(texts: pa.StringArray, shingle_words: int, permuted: NDArray[np.uint32]) -> Sketches:
    """Measure every text of an Arrow array without nulls; `permuted` comes from `permutations`."""
    result, _, _, _ = _sketches(texts, shingle_words, permuted, with_shingles=False)
    return result


def sketch_with_sets(texts: pa.StringArray, shingle_words: int, permuted: NDArray[np.uint32]) -> tuple[Sketches, Sets]:
    """Return what `sketch` does, and the shingles (32-bit hashes before permutation) of every text."""
    result, starts, shingles, letters = _sketches(texts, shingle_words, permuted, with_shingles=True)
    for first, last in pairwise(starts.tolist()):
        shingles[first:last].sort()  # NumPy's own sort, which has vector instructions: six times as fast as numba's
    distinct = np.empty(len(texts), np.float64)
    found = _drop_repeated(starts, shingles, distinct)
    return result, Sets(starts, shingles[:found].copy(), letters / np.maximum(1, result.lengths), distinct)


def _sketches(
    texts: pa.StringArray, shingle_words: int, permuted: NDArray[np.uint32], *, with_shingles: bool
) -> tuple[Sketches, NDArray[np.int64], NDArray[np.uint32], NDArray[np.int64]]:
    """Return the sketches; with shingles, their starts by text (n + 1,), all in order, and the number of letters."""
    n = len(texts)
    data, offsets, space = _with_scratch(texts)
    result = Sketches(
        np.empty((n, 2), np.uint64),
        np.empty(n, np.int32),
        np.empty(n, np.int32),
        np.empty((n, permuted.shape[1]), np.uint32),
    )
    most = int(offsets[-1] - offsets[0]) // 2 + n if with_shingles else 0  # two words have a byte between them
    starts, every, letters = np.zeros(n + 1, np.int64), np.empty(most, np.uint32), np.empty(n, np.int64)
    _sketch(
        *(data, offsets, shingle_words, permuted[0], permuted[1], characters(), space),
        *(*result, starts, every, letters),
    )
    return result, starts, every, letters


def hash_runs(texts: pa.StringArray, size: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Return 64-bit hashes of all runs of `size` words of n texts, in order, and their starts by text, (n + 1,).

    Texts with fewer words have no run; long texts are not cut.
    """
    data, offsets, space = _with_scratch(texts, 2**31)
    return _hash_runs(data, offsets, size, characters(), space, word_ends(data, offsets))


def _with_scratch(texts: pa.StringArray, limit: int = LONGEST) -> tuple[NDArray[np.uint8], NDArray[np.int32], Scratch]:
    """Return the texts' bytes, their offsets, and scratch space for the longest."""
    data, offsets = buffers(texts)
    return data, offsets, scratch(int(np.diff(offsets).max(initial=0)), limit)


@compiled
def _sketch(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int32],
    shingle_words: int,
    multipliers: NDArray[np.uint32],
    addends: NDArray[np.uint32],
    tables: Characters,
    space: Scratch,
    digests: NDArray[np.uint64],
    lengths: NDArray[np.int32],
    words: NDArray[np.int32],
    signatures: NDArray[np.uint32],
    starts: NDArray[np.int64],
    every: NDArray[np.uint32],
    letters: NDArray[np.int64],
) -> None:
    """Fill the measurements; the shingles too, unless there is no space for them in `every`."""
    sums, shingles = np.empty(space.words.size, np.uint64), np.empty(space.words.size, np.uint32)
    for document in range(offsets.size - 1):
        found = split(data, offsets[document], offsets[document + 1], tables, space, LONGEST, None)
        digests[document, 0], digests[document, 1] = found.high, found.low
        lengths[document] = found.length
        words[document] = found.words
        letters[document] = found.letters
        count = _shingles(space.words, found.words, shingle_words, sums, shingles)
        for k in range(multipliers.size):
            multiplier, addend, least = multipliers[k], addends[k], np.uint32(0xFFFFFFFF)
            for i in range(count):
                least = min(least, np.uint32(multiplier * shingles[i] + addend))
            signatures[document, k] = least
        if every.size:
            for i in range(count):
                every[starts[document] + i] = shingles[i]
            starts[document + 1] = starts[document] + count


@compiled
def _drop_repeated(starts: NDArray[np.int64], shingles: NDArray[np.uint32], distinct: NDArray[np.float64]) -> int:
    """Keep each shingle of a text once, move `starts`, fill the shares of `Sets.distinct`; return their number."""
    end = first = 0
    for document in range(distinct.size):
        last = starts[document + 1]
        starts[document] = end
        for i in range(first, last):
            if i == first or shingles[i] != shingles[i - 1]:
                shingles[end] = shingles[i]
                end += 1
        distinct[document] = (end - starts[document]) / (last - first) if last > first else 1.0
        first = last
    starts[distinct.size] = end
    return end


@compiled
def _hash_runs(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int32],
    size: int,
    tables: Characters,
    space: Scratch,
    ends: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    n = offsets.size - 1
    starts = np.zeros(n + 1, np.int64)
    runs = np.empty(max(0, offsets[n] - offsets[0]) + 1, np.uint64)
    for document in range(n):
        count = split(data, offsets[document], offsets[document + 1], tables, space, offsets[n], ends).words
        total = max(0, count - size + 1)
        _polynomials(space.words, total, size, runs[starts[document] : starts[document] + total])
        starts[document + 1] = starts[document] + total
    return starts, runs[: starts[n]].copy()


@compiled
def _shingles(
    words: NDArray[np.uint64], count: int, size: int, sums: NDArray[np.uint64], shingles: NDArray[np.uint32]
) -> int:
    """Fill `shingles` with the pre-mixed 32-bit hashes of all runs of `size` words; fewer words make one shingle."""
    if count == 0:
        return 0
    size = min(size, count)
    total = count - size + 1
    _polynomials(words, total, size, sums)
    for i in range(total):
        shingles[i] = _premix(sums[i])
    return total


@compiled
def _polynomials(words: NDArray[np.uint64], total: int, size: int, sums: NDArray[np.uint64]) -> None:
    """Fill `sums` with the polynomials of all runs of `size` words.

    It handles one place of all runs at a time, which vectorizes; rolling hashes are slower. `sums` must not overlap
    `words`.
    """
    for i in range(total):
        sums[i] = words[i]
    for place in range(1, size):
        shifted = words[place : place + total]
        for i in range(total):
            sums[i] = sums[i] * SHINGLE_BASE + shifted[i]


@compiled
def _premix(rolling: np.uint64) -> np.uint32:
    """Return the shingle's 32-bit hash (MurmurHash3's fmix64) after datasketch's pre-mix (its fmix32)."""
    h = rolling
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xFF51AFD7ED558CCD)
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xC4CEB9FE1A85EC53)
    h ^= h >> np.uint64(33)
    v = np.uint32(h >> np.uint64(32))
    v ^= v >> np.uint32(16)
    v = np.uint32(v * np.uint32(0x85EBCA6B))
    v ^= v >> np.uint32(13)
    v = np.uint32(v * np.uint32(0xC2B2AE35))
    v ^= v >> np.uint32(16)
    return v
