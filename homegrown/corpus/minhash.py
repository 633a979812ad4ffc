"""MinHash signatures of texts: words, shingles and permutations in one compiled pass over Arrow's buffers.

A text is lower-cased and cut into words (`homegrown.corpus.characters`). Each word is hashed (FNV-1a, 64 bits, over
code points); a shingle is the polynomial of its words' hashes, mixed by MurmurHash3's finalizer, the upper 32 bits.
That is the `hashfunc`; what follows (pre-mix, permutations, minimum) is, bit for bit,
`datasketch.MinHash(num_perm, seed, scheme="affine32")` with the same shingles.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from homegrown.corpus.characters import ALONE, CODE_POINTS, LETTER, SPACE, WORD, Characters, characters, decode
from homegrown.corpus.compiled import compiled

LONGEST = 500_000  # characters that are shingled: longer texts saturate signatures and join what is unrelated (Marin)

FNV_OFFSET = np.uint64(0xCBF29CE484222325)  # Fowler, Noll, Vo: FNV-1a, 64 bits
FNV_PRIME = np.uint64(0x100000001B3)
SHINGLE_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, from the golden ratio
_SECOND_BASE = np.uint64(0xC2B2AE3D27D4EB4F)  # odd; a second hash of the whole text, for 128 bits in all


class Sets(NamedTuple):
    """The distinct shingles of n texts, and shares by which texts can be ranked.

    `starts` (n + 1,) int64: where each text's shingles begin in `shingles` (uint32, ascending within a text);
    `letters` (n,) float64: share of letters among the characters;
    `distinct` (n,) float64: share of shingles that are no repetition of another one in the text, 1 without any.
    """

    starts: NDArray[np.int64]
    shingles: NDArray[np.uint32]
    letters: NDArray[np.float64]
    distinct: NDArray[np.float64]


class Sketches(NamedTuple):
    """What is measured of n texts.

    `digests` (n, 2) uint64: 128-bit hash of the text, lower-cased and its white space folded;
    `lengths` (n,) int32: characters; `words` (n,) int32: words within the first 500,000 characters;
    `signatures` (n, permutations) uint32.
    """

    digests: NDArray[np.uint64]
    lengths: NDArray[np.int32]
    words: NDArray[np.int32]
    signatures: NDArray[np.uint32]


def permutations(count: int, seed: int) -> NDArray[np.uint32]:
    """Return datasketch's multipliers and addends of `count` permutations, (2, count) uint32."""
    from datasketch import MinHash

    pairs: NDArray[np.uint32] = MinHash(num_perm=count, seed=seed % 2**32, scheme="affine32").permutations
    return pairs


def sketch(texts: pa.StringArray, shingle_words: int, permuted: NDArray[np.uint32]) -> Sketches:
    """Measure every text of an Arrow array without nulls; `permuted` comes from `permutations`."""
    n = len(texts)
    data, offsets, scratch = _buffers(texts)
    result = Sketches(
        np.empty((n, 2), np.uint64),
        np.empty(n, np.int32),
        np.empty(n, np.int32),
        np.empty((n, permuted.shape[1]), np.uint32),
    )
    _sketch(data, offsets, shingle_words, permuted[0], permuted[1], characters(), scratch, *result)
    return result


def shingle_sets(texts: pa.StringArray, shingle_words: int) -> Sets:
    """Return the shingles (32-bit hashes, those that are permuted) of every text of an Arrow array without nulls."""
    data, offsets, scratch = _buffers(texts)
    return Sets(*_shingle_sets(data, offsets, shingle_words, characters(), scratch))


def hash_runs(texts: pa.StringArray, size: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Return 64-bit hashes of all runs of `size` words of n texts, in order, and where each text's begin, (n + 1,).

    A text of fewer words has none.
    """
    data, offsets, scratch = _buffers(texts)
    return _hash_runs(data, offsets, size, characters(), scratch)


def _buffers(texts: pa.StringArray) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.uint64]]:
    """Return the texts' bytes, offsets into them, and an array for the words of the longest."""
    offsets = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]
    data = np.frombuffer(texts.buffers()[2] or b"", np.uint8)
    longest = int(np.diff(offsets).max(initial=0))
    return data, offsets, np.empty(min(longest, LONGEST) + 1, np.uint64)


@compiled
def _sketch(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int32],
    shingle_words: int,
    multipliers: NDArray[np.uint32],
    addends: NDArray[np.uint32],
    tables: Characters,
    scratch: NDArray[np.uint64],
    digests: NDArray[np.uint64],
    lengths: NDArray[np.int32],
    words: NDArray[np.int32],
    signatures: NDArray[np.uint32],
) -> None:
    shingles = np.empty(scratch.size, np.uint32)
    for document in range(offsets.size - 1):
        length, _, count = _words(data, offsets[document], offsets[document + 1], tables, scratch, digests[document])
        lengths[document] = length
        words[document] = count
        count = _shingles(scratch, count, shingle_words, shingles)
        for k in range(multipliers.size):
            multiplier, addend, least = multipliers[k], addends[k], np.uint32(0xFFFFFFFF)
            for i in range(count):
                least = min(least, np.uint32(multiplier * shingles[i] + addend))
            signatures[document, k] = least


@compiled
def _shingle_sets(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int32],
    shingle_words: int,
    tables: Characters,
    scratch: NDArray[np.uint64],
) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.float64], NDArray[np.float64]]:
    n = offsets.size - 1
    starts = np.zeros(n + 1, np.int64)
    shingles = np.empty(max(0, offsets[n] - offsets[0]) // 2 + 2 * n + 1, np.uint32)
    letters_, distinct = np.empty(n, np.float64), np.empty(n, np.float64)
    digest = np.empty(2, np.uint64)
    own = np.empty(scratch.size, np.uint32)
    for document in range(n):
        length, letters, count = _words(data, offsets[document], offsets[document + 1], tables, scratch, digest)
        count = _shingles(scratch, count, shingle_words, own)
        end = starts[document]
        if count:
            ascending = np.sort(own[:count])
            for i in range(count):
                if i == 0 or ascending[i] != ascending[i - 1]:
                    shingles[end] = ascending[i]
                    end += 1
        letters_[document] = letters / max(1, length)
        distinct[document] = (end - starts[document]) / count if count else 1.0
        starts[document + 1] = end
    return starts, shingles[: starts[n]].copy(), letters_, distinct


@compiled
def _hash_runs(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int32],
    size: int,
    tables: Characters,
    scratch: NDArray[np.uint64],
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    n = offsets.size - 1
    starts = np.zeros(n + 1, np.int64)
    runs = np.empty(max(0, offsets[n] - offsets[0]) + 1, np.uint64)
    digest = np.empty(2, np.uint64)
    for document in range(n):
        _, _, count = _words(data, offsets[document], offsets[document + 1], tables, scratch, digest)
        end = starts[document]
        rolling = np.uint64(0)
        leading = np.uint64(1)
        for i in range(count):
            if i < size:
                rolling = rolling * SHINGLE_BASE + scratch[i]
                leading = leading * SHINGLE_BASE if i else leading
            else:
                rolling = (rolling - scratch[i - size] * leading) * SHINGLE_BASE + scratch[i]
            if i >= size - 1:
                runs[end] = rolling
                end += 1
        starts[document + 1] = end
    return starts, runs[: starts[n]].copy()


@compiled
def _words(
    data: NDArray[np.uint8],
    start: int,
    end: int,
    tables: Characters,
    words: NDArray[np.uint64],
    digest: NDArray[np.uint64],
) -> tuple[int, int, int]:
    """Fill `words` with the words' hashes, `digest` with the text's; return counts of characters, letters, words."""
    lower, kinds = tables
    first, second = FNV_OFFSET, FNV_OFFSET
    word = FNV_OFFSET
    inside = False
    gap = False
    length = letters = count = 0
    i = start
    while i < end:
        code, i = decode(data, i)
        length += 1
        kind = np.uint8(0)
        if code < CODE_POINTS:
            kind = kinds[code]
            code = np.int64(lower[code])
        letters += kind & LETTER != 0
        if kind & SPACE:
            gap = True
        else:
            if gap and first != FNV_OFFSET:
                first = (first ^ np.uint64(32)) * FNV_PRIME
                second = (second ^ np.uint64(32)) * _SECOND_BASE
            gap = False
            first = (first ^ np.uint64(code)) * FNV_PRIME
            second = (second ^ np.uint64(code)) * _SECOND_BASE
        if inside and (not kind & WORD or kind & ALONE):
            words[count] = word
            count += 1
            inside = False
        if kind & WORD and length <= LONGEST:
            if not inside:
                word = FNV_OFFSET
            word = (word ^ np.uint64(code)) * FNV_PRIME
            inside = True
            if kind & ALONE:
                words[count] = word
                count += 1
                inside = False
    if inside:
        words[count] = word
        count += 1
    digest[0] = first
    digest[1] = second
    return length, letters, count


@compiled
def _shingles(words: NDArray[np.uint64], count: int, size: int, shingles: NDArray[np.uint32]) -> int:
    """Fill `shingles` with the 32-bit hashes of all runs of `size` words, pre-mixed; fewer words are one shingle."""
    if count == 0:
        return 0
    size = min(size, count)
    rolling = np.uint64(0)
    leading = np.uint64(1)
    for i in range(size):
        rolling = rolling * SHINGLE_BASE + words[i]
        if i:
            leading *= SHINGLE_BASE
    shingles[0] = _premix(rolling)
    for i in range(size, count):
        rolling = (rolling - words[i - size] * leading) * SHINGLE_BASE + words[i]
        shingles[i - size + 1] = _premix(rolling)
    return count - size + 1


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
