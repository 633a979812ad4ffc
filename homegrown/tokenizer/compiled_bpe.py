"""Many texts to token ids in one compiled call: the split patterns of Qwen2 and Llama 3, and byte-level BPE.

Most words of a text were seen before, so the tokens of words are remembered. A text with a rare character or a very
long word is left to the other engines (`homegrown.tokenizer.encoding`).
"""

import unicodedata
from functools import cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from homegrown.corpus.characters import CODE_POINTS, decode
from homegrown.corpus.compiled import buffers, compiled

_LETTER, _NUMBER, _SPACE, _NEWLINE, _STRANGE = 1, 2, 4, 8, 16
_LONGEST = 128  # bytes of a word; time grows with the square
_WORDS, _BITS = 2**18, 19  # that are remembered, and bits of the number of a slot
_SLOTS = 2**_BITS
_TEXT, _TOKENS = 10 * _WORDS, 2 * _WORDS
_SHORT = 15  # bytes of a word that is compared as two numbers
_APOSTROPHE, _BLANK, _LONG_S = ord("'"), ord(" "), 0x17F
_COMPOSED = 0x300  # all text of smaller code points is in NFC
# Blocks whose characters are known one by one; of the others, those of one kind.
_LISTED = ((0, 0x3400), (0xA000, 0xAC00), (0xF900, 0x10000), (0x1F000, 0x1FB00))
_LETTERS = ((0x3400, 0x4DC0), (0x4E00, 0x9FFD), (0xAC00, 0xD7A4))


class Merges(NamedTuple):
    """Token of each byte, and a hash table of merges: left << 32 | right, plus 1; rank << 32 | merged."""

    of_bytes: NDArray[np.uint32]
    pairs: NDArray[np.uint64]
    merged: NDArray[np.uint64]


class Memory(NamedTuple):
    """Words and their tokens.

    `slots` is a hash table of two numbers that identify a word and one for its tokens. A word of up to 15 bytes is its
    bytes and its size; a longer one is its hash, with its place in `text` (its size there first). Up to two tokens are
    in the slot, more at a place of `tokens`. `used` counts words, bytes of `text` and `tokens`.
    """

    slots: NDArray[np.uint64]
    text: NDArray[np.uint8]
    tokens: NDArray[np.uint32]
    used: NDArray[np.int64]


@cache
def kinds(composes: bool) -> NDArray[np.uint8]:
    """Return the kinds of characters by code point.

    Those that Python does not know are strange: the regular expressions may know them. So are those that NFC could
    change, if the tokenizer `composes`.
    """
    found = np.full(CODE_POINTS, _STRANGE, np.uint8)
    of = {"L": _LETTER, "N": _NUMBER}
    for first, last in _LISTED:
        categories = map(unicodedata.category, map(chr, range(first, last)))
        found[first:last] = [_STRANGE if one in ("Cn", "Cs") else of.get(one[0], 0) for one in categories]
    for first, last in _LETTERS:
        found[first:last] = _LETTER
    found[[*range(9, 14), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000]] = (
        _SPACE
    )
    found[[10, 13]] = _SPACE | _NEWLINE
    if composes:
        found[_COMPOSED:] = _STRANGE
    return found


class CompiledBpe:
    """Encodes with the merges of a byte-level BPE, each token of which is made by its merges or looked up first."""

    def __init__(
        self,
        splits: tuple[int, bool],
        composes: bool,
        of_bytes: list[int],
        merges: list[tuple[int, int, int]],
        tokens: dict[bytes, int],
    ):
        """Take `homegrown.tokenizer.encoding.SPLITS` of the pattern, whether NFC comes first, and the model.

        `of_bytes` has the token of each byte; `merges` have left, right and merged token.
        """
        self._kinds, (self._digits, self._long_s) = kinds(composes), splits
        size = 1 << max(8, (3 * len(merges)).bit_length())
        self._merges = Merges(np.array(of_bytes, np.uint32), np.zeros(size, np.uint64), np.zeros(size, np.uint64))
        _add_merges(self._merges.pairs, self._merges.merged, np.array(merges, np.uint32).reshape(-1, 3))
        self._tokens = tokens
        self._idle: list[Memory] = []  # one per thread that encodes

    def encode(self, texts: pa.StringArray) -> list[NDArray[np.uint32] | None]:
        """Return the tokens of each text, None for those that are left to others."""
        data, offsets = buffers(texts)
        eights = _padded(data[offsets[0] : offsets[-1]])
        tokens = np.empty(int(offsets[-1] - offsets[0]) + 1, np.uint32)
        ends, left = np.empty(len(texts), np.int64), np.empty(len(texts), np.bool_)
        memory = self._idle.pop() if self._idle else self._memory()
        starts = offsets - offsets[0]
        _encode(
            eights,
            eights.view(np.uint8),
            starts,
            self._kinds,
            self._digits,
            self._long_s,
            self._merges,
            memory,
            tokens,
            ends,
            left,
        )
        self._idle.append(memory)
        return [
            None if skipped else tokens[first:last]
            for skipped, first, last in zip(left.tolist(), [0, *ends.tolist()], ends.tolist(), strict=False)
        ]

    def _memory(self) -> Memory:
        """Return a memory of the tokens, which are words of their own."""
        memory = Memory(
            np.zeros((_SLOTS, 4), np.uint64),
            np.empty(_TEXT, np.uint8),
            np.empty(_TOKENS, np.uint32),
            np.zeros(3, np.int64),
        )
        known = {token: number for token, number in self._tokens.items() if len(token) <= _LONGEST}
        ends = np.cumsum([0, *map(len, known)], dtype=np.int64)
        eights = _padded(np.frombuffer(b"".join(known), np.uint8))
        _remember_all(eights, eights.view(np.uint8), ends, np.array([*known.values()], np.uint32), memory)
        return memory


def _padded(data: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return a copy of bytes for a kernel that reads eight at a time, beyond their end too."""
    eights = np.zeros(data.size // 8 + 4, np.uint64)
    eights.view(np.uint8)[: data.size] = data
    return eights


@compiled
def _encode(
    eights: NDArray[np.uint64],
    data: NDArray[np.uint8],
    offsets: NDArray[np.int32],
    kinds: NDArray[np.uint8],
    digits: int,
    long_s: bool,
    merges: Merges,
    memory: Memory,
    tokens: NDArray[np.uint32],
    ends: NDArray[np.int64],
    left: NDArray[np.bool_],
) -> None:
    """Fill `tokens` with those of all texts, and `ends` with the end of each; `left` are the texts left to others."""
    slots, known, text_of_words = memory.slots, memory.tokens, memory.text
    of_bytes, pairs, merged = merges.of_bytes, merges.pairs, merges.merged
    own, ranks = np.empty(_LONGEST, np.uint32), np.empty(_LONGEST, np.uint64)
    stops = np.empty(np.diff(offsets).max() if ends.size else 0, np.int64)
    low, high = _masks()
    place = 0
    for text in range(ends.size):
        first = int(offsets[text])
        words = _split(eights, data, first, int(offsets[text + 1]), kinds, digits, long_s, stops)
        left[text] = words < 0
        for word in range(words):  # apart from splitting, so that the processor looks up several at the same time
            last = int(stops[word])
            size = last - first
            if size <= _SHORT:  # as in `_first` and `_second`; calling both is a third slower
                one = _eight(eights, first) & low[size]
                other = _eight(eights, first + 8) & high[size] | np.uint64(size) << np.uint64(56)
            else:
                one, other = _first(eights, data, first, last, low), np.uint64(0)
            slot = _slot(one, other)
            if slots[slot, 0] != one or slots[slot, 1] != other:
                slot = _find(data, first, last, one, other, slot, slots, text_of_words)
            packed = slots[slot, 2]
            count = int(np.int64(packed & np.uint64(0xFF)))
            if 0 < count <= 2:
                tokens[place] = packed >> np.uint64(8) & np.uint64(0xFFFFFFF)
                tokens[place + 1] = packed >> np.uint64(36)  # of the next word, if the count is 1
            elif count:
                start = np.int64(packed >> np.uint64(8))
                for k in range(count):
                    tokens[place + k] = known[start + k]
            else:
                count = _merge(data, first, last, of_bytes, pairs, merged, own, ranks)
                for k in range(count):
                    tokens[place + k] = own[k]
                _remember(data, first, last, one, other, slot, own[:count], memory)
            place += count
            first = last
        ends[text] = place


@compiled
def _masks() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the bits of the first eight bytes of a short word, and of the second, by its size."""
    low, high = np.zeros(_SHORT + 1, np.uint64), np.zeros(_SHORT + 1, np.uint64)
    for size in range(_SHORT + 1):
        for byte in range(size):
            (low if byte < 8 else high)[size] |= np.uint64(0xFF) << np.uint64(byte % 8 * 8)
    return low, high


# --- splitting --------------------------------------------------------------------------------------------------------


@compiled
def _split(
    eights: NDArray[np.uint64],
    data: NDArray[np.uint8],
    i: int,
    end: int,
    kinds: NDArray[np.uint8],
    digits: int,
    long_s: bool,
    stops: NDArray[np.int64],
) -> int:
    """Fill `stops` with the ends of the words; return their number, -1 for a text that is left to others."""
    words = 0
    while i < end:
        stop = _plain_end(eights, data, i, end)
        if not stop:
            stop = _word_end(data, i, end, kinds, digits, long_s)
            if stop < 0 or stop - i > _LONGEST:
                return -1
        stops[words] = stop
        words += 1
        i = stop
    return words


@compiled
def _eight(eights: NDArray[np.uint64], i: int) -> np.uint64:
    """Return the eight bytes from `i` on, the first as the lowest."""
    shift = np.uint64((i & 7) * 8)
    high = (eights[(i >> 3) + 1] << np.uint64(1)) << (np.uint64(63) - shift)
    return np.uint64(eights[i >> 3] >> shift | high)


@compiled
def _plain_end(eights: NDArray[np.uint64], data: NDArray[np.uint8], i: int, end: int) -> int:
    """Return the end of a word of at most seven ASCII letters, or of a blank and such letters; 0 for others."""
    first = i + (data[i] == _BLANK)
    eight = _eight(eights, first)
    lower = eight | np.uint64(0x2020202020202020)
    seven = lower & np.uint64(0x7F7F7F7F7F7F7F7F)
    from_a = seven + np.uint64(0x1F1F1F1F1F1F1F1F)  # the highest bit of a byte: it is at least "a"
    after_z = seven + np.uint64(0x0505050505050505)
    others = ~(from_a & ~after_z & ~eight) >> np.uint64(7) & np.uint64(0x0101010101010101)
    lowest = (others & (~others + np.uint64(1))) - np.uint64(1)
    count = np.int64(((lowest & np.uint64(0x0101010101010101)) * np.uint64(0x0101010101010101)) >> np.uint64(56))
    stop = first + count
    if others == 0 or count == 0 or (data[stop] >= 0x80 and stop < end):
        return 0
    return int(min(stop, end))


@compiled
def _word_end(data: NDArray[np.uint8], i: int, end: int, kinds: NDArray[np.uint8], digits: int, long_s: bool) -> int:
    """Return the end of the word that starts at byte `i`: the match of the pattern; -1 at a strange character."""
    code, following = decode(data, i)
    kind = _kind(kinds, code)
    if kind & _LETTER:
        return _run(data, following, end, kinds, _LETTER)
    if kind & _STRANGE:
        return -1
    if kind & _NUMBER:
        for _ in range(digits - 1):
            if following < end:
                code, after = decode(data, following)
                if _kind(kinds, code) & _NUMBER:
                    following = after
        return following
    if following >= end:
        return end
    if code == _APOSTROPHE:
        size = _contraction(data, following, end, long_s)
        if size:
            return following + size
    second, after = decode(data, following)
    next_kind = _kind(kinds, second)
    if next_kind & _LETTER and not kind & _NEWLINE:
        return _run(data, after, end, kinds, _LETTER)
    if kind & _SPACE and not (code == _BLANK and next_kind == 0):
        return _blank_end(data, i, end, kinds)
    return _run(data, _run(data, following, end, kinds, 0), end, kinds, _NEWLINE)


@compiled
def _kind(kinds: NDArray[np.uint8], code: np.int64) -> np.uint8:
    return kinds[code] if code < CODE_POINTS else np.uint8(_STRANGE)


@compiled
def _run(data: NDArray[np.uint8], i: int, end: int, kinds: NDArray[np.uint8], wanted: int) -> int:
    """Return the end of a run of characters of one kind; of no kind for 0."""
    while i < end:
        code, after = decode(data, i)
        kind = _kind(kinds, code)
        if kind & wanted == 0 and (wanted or kind):
            break
        i = after
    return i


@compiled
def _contraction(data: NDArray[np.uint8], i: int, end: int, long_s: bool) -> int:
    """Return the bytes of the end of a contraction after its apostrophe; 0 without one."""
    code, after = decode(data, i)
    if code >= 0x80:
        return after - i if long_s and code == _LONG_S else 0
    first = code | 0x20
    if first == ord("s") or first == ord("t") or first == ord("m") or first == ord("d"):
        return 1
    if after < end and data[after] < 0x80:
        second = data[after] | 0x20
        if (first == ord("r") or first == ord("v")) and second == ord("e"):
            return 2
        if first == ord("l") and second == ord("l"):
            return 2
    return 0


@compiled
def _blank_end(data: NDArray[np.uint8], i: int, end: int, kinds: NDArray[np.uint8]) -> int:
    """Return the end of white space: after its last newline, else before its last character if something follows."""
    last, newline, first = i, 0, i
    while i < end:
        code, after = decode(data, i)
        kind = _kind(kinds, code)
        if not kind & _SPACE:
            break
        last, i = i, after
        if kind & _NEWLINE:
            newline = i
    if newline:
        return newline
    return i if i >= end or last == first else last


# --- the memory of words ----------------------------------------------------------------------------------------------


@compiled
def _first(
    eights: NDArray[np.uint64], data: NDArray[np.uint8], first: int, last: int, low: NDArray[np.uint64]
) -> np.uint64:
    """Return the first number of a word in `slots`."""
    if last - first <= _SHORT:
        return np.uint64(_eight(eights, first) & low[last - first])
    hashed = np.uint64(0xCBF29CE484222325)  # FNV-1a
    for k in range(first, last):
        hashed = (hashed ^ np.uint64(data[k])) * np.uint64(0x100000001B3)
    return hashed


@compiled
def _second(eights: NDArray[np.uint64], first: int, size: int, high: NDArray[np.uint64]) -> np.uint64:
    """Return the second number of a word; of a long one it is 0 until it has a place."""
    if size <= _SHORT:
        return np.uint64(_eight(eights, first + 8) & high[size] | np.uint64(size) << np.uint64(56))
    return np.uint64(0)


@compiled
def _slot(one: np.uint64, other: np.uint64) -> np.uint64:
    """Return the slot at which the search for a word starts."""
    mixed = (one ^ other * np.uint64(0xFF51AFD7ED558CCD)) * np.uint64(0x9E3779B97F4A7C15)
    return mixed >> np.uint64(64 - _BITS)


@compiled
def _find(
    data: NDArray[np.uint8],
    first: int,
    last: int,
    one: np.uint64,
    other: np.uint64,
    slot: np.uint64,
    slots: NDArray[np.uint64],
    text: NDArray[np.uint8],
) -> np.uint64:
    """Return the slot of a word, or a free one for it."""
    size = last - first
    while slots[slot, 2]:
        if slots[slot, 0] == one:
            if size <= _SHORT:
                if slots[slot, 1] == other:
                    break
            elif slots[slot, 1] >> np.uint64(56) == 0:  # a long word too
                place = np.int64(slots[slot, 1])
                same = 0
                if text[place] == size:
                    while same < size and text[place + 1 + same] == data[first + same]:
                        same += 1
                if same == size:
                    break
        slot = (slot + np.uint64(1)) & np.uint64(_SLOTS - 1)
    return slot


@compiled
def _remember(
    data: NDArray[np.uint8],
    first: int,
    last: int,
    one: np.uint64,
    other: np.uint64,
    slot: np.uint64,
    own: NDArray[np.uint32],
    memory: Memory,
) -> None:
    """Keep a new word, unless the memory is full."""
    words, text, tokens = memory.used[0], memory.used[1], memory.used[2]
    size, count = last - first, own.size
    if words >= _WORDS or text + size >= _TEXT or tokens + count > _TOKENS:
        return
    if size > _SHORT:
        other = np.uint64(text)
        memory.text[text] = size
        for k in range(size):
            memory.text[text + 1 + k] = data[first + k]
        memory.used[1] += size + 1
    packed = np.uint64(count)
    if count == 1:
        packed |= np.uint64(own[0]) << np.uint64(8)
    elif count == 2:
        packed |= np.uint64(own[0]) << np.uint64(8) | np.uint64(own[1]) << np.uint64(36)
    else:
        packed |= np.uint64(tokens) << np.uint64(8)
        for k in range(count):
            memory.tokens[tokens + k] = own[k]
        memory.used[2] += count
    memory.slots[slot, 0], memory.slots[slot, 1], memory.slots[slot, 2] = one, other, packed
    memory.used[0] += 1


@compiled
def _remember_all(
    eights: NDArray[np.uint64],
    data: NDArray[np.uint8],
    ends: NDArray[np.int64],
    ids: NDArray[np.uint32],
    memory: Memory,
) -> None:
    low, high = _masks()
    for number in range(ids.size):
        first, last = int(ends[number]), int(ends[number + 1])
        one, other = _first(eights, data, first, last, low), _second(eights, first, last - first, high)
        slot = _find(data, first, last, one, other, _slot(one, other), memory.slots, memory.text)
        _remember(data, first, last, one, other, slot, ids[number : number + 1], memory)


# --- merging ----------------------------------------------------------------------------------------------------------


@compiled
def _merge(
    data: NDArray[np.uint8],
    first: int,
    last: int,
    of_bytes: NDArray[np.uint32],
    pairs: NDArray[np.uint64],
    merged: NDArray[np.uint64],
    own: NDArray[np.uint32],
    ranks: NDArray[np.uint64],
) -> int:
    """Fill `own` with the tokens of a word: of all merges of neighbors, the one with the least rank comes first."""
    none = np.uint64(0xFFFFFFFFFFFFFFFF)
    count = last - first
    for k in range(count):
        own[k] = of_bytes[data[first + k]]
    for k in range(count - 1):
        ranks[k] = _merged(pairs, merged, own[k], own[k + 1])
    while count > 1:
        best, at = none, 0
        for k in range(count - 1):
            if ranks[k] < best:
                best, at = ranks[k], k
        if best == none:
            break
        own[at] = np.uint32(best & np.uint64(0xFFFFFFFF))
        count -= 1
        for k in range(at + 1, count):
            own[k] = own[k + 1]
            ranks[k] = ranks[k + 1]
        if at > 0:
            ranks[at - 1] = _merged(pairs, merged, own[at - 1], own[at])
        if at < count - 1:
            ranks[at] = _merged(pairs, merged, own[at], own[at + 1])
    return count


@compiled
def _merged(pairs: NDArray[np.uint64], merged: NDArray[np.uint64], left: np.uint32, right: np.uint32) -> np.uint64:
    """Return rank << 32 | token of a merge, the greatest number for other pairs."""
    slot = _slot_of(pairs, left, right)
    return merged[slot] if pairs[slot] else np.uint64(0xFFFFFFFFFFFFFFFF)


@compiled
def _slot_of(pairs: NDArray[np.uint64], left: np.uint32, right: np.uint32) -> np.uint64:
    """Return the slot of a pair, or a free one for it."""
    pair = (np.uint64(left) << np.uint64(32) | np.uint64(right)) + np.uint64(1)
    mask = np.uint64(pairs.size - 1)
    slot = (pair * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(36) & mask
    while pairs[slot] and pairs[slot] != pair:
        slot = (slot + np.uint64(1)) & mask
    return slot


@compiled
def _add_merges(pairs: NDArray[np.uint64], merged: NDArray[np.uint64], merges: NDArray[np.uint32]) -> None:
    for rank in range(merges.shape[0]):
        left, right, both = merges[rank]
        slot = _slot_of(pairs, left, right)
        if not pairs[slot]:  # the first of equal ones
            pairs[slot] = (np.uint64(left) << np.uint64(32) | np.uint64(right)) + np.uint64(1)
            merged[slot] = np.uint64(rank) << np.uint64(32) | np.uint64(both)
