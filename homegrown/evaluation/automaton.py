"""A suffix automaton of a few sequences, to find their longest matches in a long text (Blumer et al. 1985).

Each state is a set of substrings. Reading a text gives, after each token, the longest suffix of the text read so far
that occurs in the sequences, for a few lookups per token; this part is compiled (numba).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numba
import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]

_ROOT = 0
_NONE = -1
_SPREAD = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio (Knuth, volume 3, section 6.4)


@dataclass
class Automaton:
    """The automaton of `n` tokens: at most 2 n states and 3 n edges; all arrays are int64.

    `longest` [states] is the length of a state's longest substring; `link` [states] is the state of its longest suffix
    in another state, -1 for the empty first state; `after` [n] is the state of each prefix. `keys` and `next` are a
    hash table from a state and a token to the next state.
    """

    longest: Numbers
    link: Numbers
    after: Numbers
    keys: Numbers
    next: Numbers
    alphabet: int

    @classmethod
    def of(cls, tokens: Sequence[int], alphabet: int) -> Self:
        """Build the automaton of `tokens`, all from 0 to `alphabet` - 1."""
        longest, link, edges = [0], [_NONE], [dict[int, int]()]
        after, last = [], _ROOT
        for token in tokens:
            new = len(longest)
            longest.append(longest[last] + 1)
            link.append(_ROOT)
            edges.append({})
            state = last
            while state != _NONE and token not in edges[state]:
                edges[state][token] = new
                state = link[state]
            if state != _NONE:
                reached = edges[state][token]
                if longest[reached] == longest[state] + 1:
                    link[new] = reached
                else:
                    split = len(longest)
                    longest.append(longest[state] + 1)
                    link.append(link[reached])
                    edges.append(edges[reached].copy())
                    link[reached] = link[new] = split
                    while state != _NONE and edges[state].get(token) == reached:
                        edges[state][token] = split
                        state = link[state]
            after.append(new)
            last = new
        count = sum(map(len, edges))
        flat = ((state * alphabet + token, to) for state, own in enumerate(edges) for token, to in own.items())
        pairs = np.fromiter(flat, dtype=np.dtype((np.int64, 2)), count=count)
        slots = 1 << max(4, (2 * count).bit_length())
        keys, following = np.full(slots, _NONE, dtype=np.int64), np.empty(slots, dtype=np.int64)
        _fill(pairs, keys, following)
        return cls(np.array(longest), np.array(link), np.array(after, dtype=np.int64), keys, following, alphabet)

    def start(self) -> "Reading":
        """Return the start of a reading."""
        states = len(self.longest)
        return Reading(self, np.zeros(states, dtype=np.int64), np.full(states, _NONE, dtype=np.int64))


@dataclass
class Reading:
    """The matches with a long text so far; `best` and `end` are int64 [states]."""

    automaton: Automaton
    best: Numbers
    """Length of the longest suffix of a state's substrings in the text."""
    end: Numbers
    """Position in the text of that suffix's last token, -1 for no match."""

    def read(self, text: Numbers, first: int) -> None:
        """Read a part of the text, int64 [tokens], from position `first` on; no match extends into the next part."""
        one = self.automaton
        _scan(text, first, one.longest, one.link, one.keys, one.next, one.alphabet, self.best, self.end)

    def matches(self) -> tuple[Numbers, Numbers]:
        """Return for each token of the automaton's sequence the longest run up to it that occurs in the text.

        The length and the position in the text of the last token, int64 [tokens] each; 0 and -1 for no match.
        """
        longest, link = self.automaton.longest.tolist(), self.automaton.link.tolist()
        best, end = self.best.tolist(), self.end.tolist()
        by_length = np.argsort(self.automaton.longest).tolist()[1:]
        for state in reversed(by_length):  # a match of a state is one of its suffixes' states too
            above = link[state]
            if best[state] and above != _ROOT and best[above] < longest[above]:
                best[above], end[above] = longest[above], end[state]
        for state in by_length:  # without a match of its own, a state has that of its longest suffix
            if not best[state]:
                best[state], end[state] = best[link[state]], end[link[state]]
        return np.array(best)[self.automaton.after], np.array(end)[self.automaton.after]


@numba.njit(cache=True, nogil=True)
def _slot(keys, key):  # type: ignore[no-untyped-def]
    """Return the slot of a key, or the free slot for it."""
    mask = np.uint64(len(keys) - 1)
    place = ((np.uint64(key) * np.uint64(_SPREAD)) >> np.uint64(20)) & mask
    while keys[place] != _NONE and keys[place] != key:
        place = (place + np.uint64(1)) & mask
    return place


@numba.njit(cache=True, nogil=True)
def _fill(pairs, keys, following):  # type: ignore[no-untyped-def]
    for number in range(len(pairs)):
        slot = _slot(keys, pairs[number, 0])
        keys[slot], following[slot] = pairs[number, 0], pairs[number, 1]


@numba.njit(cache=True, nogil=True)
def _scan(text, first, longest, link, keys, following, alphabet, best, end):  # type: ignore[no-untyped-def]
    state, length = _ROOT, 0
    for place in range(len(text)):
        while True:
            slot = _slot(keys, state * alphabet + text[place])
            if keys[slot] != _NONE or state == _ROOT:
                break
            state = link[state]
            length = longest[state]
        if keys[slot] == _NONE:
            continue
        state = following[slot]
        length += 1
        if length > best[state]:
            best[state], end[state] = length, first + place
