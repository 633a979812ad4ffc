"""Counting baselines: unigrams, and 5-grams with interpolated modified Kneser-Ney smoothing.

Chen and Goodman (1999), section 3: an n-gram's count is discounted by D1, D2 or D3, for counts of 1, 2 and more, and
the rest of the probability goes to the shorter context; lower orders count the different tokens before an n-gram
instead of its occurrences. The lowest order is interpolated with the uniform distribution.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from homegrown.data.loader import TokenSplit
from homegrown.evaluation.windows import Numbers

ORDER = 5
MOST_TOKENS = 10_000_000
"""Training tokens to count, the first ones (documents are shuffled); this bounds memory and time."""

_MULTIPLIER = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio
_FALLBACK = (0.5, 1.0, 1.5)
"""Discounts for a text without n-grams that occur once, or twice."""


def unigram_costs(train: TokenSplit, tokens: Numbers) -> npt.NDArray[np.float64]:
    """Return -log p of each of `tokens` (int64), in nats, by add-one smoothed counts of the training tokens."""
    counts = np.bincount(_training_tokens(train), minlength=train.vocabulary_size) + 1.0
    costs: npt.NDArray[np.float64] = -np.log(counts / counts.sum())[tokens]
    return costs


def five_gram_costs(train: TokenSplit, text: Numbers, targets: Numbers, known: Numbers) -> npt.NDArray[np.float64]:
    """Return -log p of the tokens at the positions `targets` of `text`, in nats.

    int64 [tokens], [targets] and [targets]: `known` is the number of previous tokens that may be used; the model uses
    at most four.
    """
    return -np.log(kneser_ney(_training_tokens(train), train.vocabulary_size, text, targets, known))


def kneser_ney(
    train: Numbers, vocabulary_size: int, text: Numbers, targets: Numbers, known: Numbers, order: int = ORDER
) -> npt.NDArray[np.float64]:
    """Return the probability of each target given at most `order` - 1 previous tokens.

    Contexts are compared by hashes of at least 44 bits, so among ten million one or two can collide.
    """
    bits = max(1, (vocabulary_size - 1).bit_length())
    levels: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]] = []
    places = np.arange(max(0, len(train) - order + 1))
    for n in range(order, 0, -1):
        grams = _Grams.of(train, places, n, bits)
        found = np.minimum(known, targets) >= n - 1
        wanted = np.zeros(len(targets), dtype=np.uint64)
        wanted[found] = _keys(text, targets[found] - n + 1, n, bits)
        levels.append(grams.look_up(wanted, found, bits))
        # The next order counts the different tokens before each n-gram, and the start of the text as one.
        places = np.concatenate([grams.places + 1, np.zeros(1, dtype=np.int64)])
    chances = np.full(len(targets), 1 / vocabulary_size)
    for own, left in reversed(levels):
        chances = own + left * chances
    return chances


@dataclass(frozen=True)
class _Grams:
    """The different n-grams of a text, ordered by context: key, count and a position of each, int64 [n-grams]."""

    keys: npt.NDArray[np.uint64]
    counts: Numbers
    places: Numbers

    @classmethod
    def of(cls, text: Numbers, places: Numbers, n: int, bits: int) -> "_Grams":
        """Count the n-grams that start at the positions `places`."""
        keys = _keys(text, places, n, bits)
        order = np.argsort(keys)
        keys = keys[order]
        firsts = np.flatnonzero(np.concatenate([np.ones(min(1, len(keys)), bool), keys[1:] != keys[:-1]]))
        return cls(keys[firsts], np.diff(firsts, append=len(keys)), places[order[firsts]])

    def discounts(self) -> npt.NDArray[np.float64]:
        """Return how much is taken off counts of 0, 1, 2 and more (Chen and Goodman 1999, equation 17)."""
        one, two, three, four = (int(np.count_nonzero(self.counts == count)) for count in (1, 2, 3, 4))
        if not (one and two and three):
            return np.array([0.0, *_FALLBACK])
        y = one / (one + 2 * two)
        found = [1 - 2 * y * two / one, 2 - 3 * y * three / two, 3 - 4 * y * four / three]
        return np.array([0.0, *(max(0.0, value) for value in found)])

    def look_up(
        self, wanted: npt.NDArray[np.uint64], known: npt.NDArray[np.bool_], bits: int
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return each n-gram's discounted share of its context, and the share that is left to the shorter context.

        For a context that is not `known` or does not occur, everything is left.
        """
        own, left = np.zeros(len(wanted)), np.ones(len(wanted))
        if not len(self.keys):
            return own, left
        discounts = self.discounts()
        taken = discounts[np.minimum(self.counts, 3)]
        contexts = self.keys >> np.uint64(bits)
        firsts = np.flatnonzero(np.concatenate([[True], contexts[1:] != contexts[:-1]]))
        totals, discounted = np.add.reduceat(self.counts, firsts), np.add.reduceat(taken, firsts)
        context, met = _find(contexts[firsts], wanted >> np.uint64(bits))
        met &= known
        gram, seen = _find(self.keys, wanted)
        seen &= known
        left[met] = discounted[context[met]] / totals[context[met]]
        own[seen] = (self.counts[gram[seen]] - taken[gram[seen]]) / totals[context[seen]]
        return own, left


def _keys(text: Numbers, places: Numbers, n: int, bits: int) -> npt.NDArray[np.uint64]:
    """Return a key of each n-gram that starts at `places`: its last token in the low bits, its context above."""
    context = np.zeros(len(places), dtype=np.uint64)
    for offset in range(n - 1):
        context += text[places + offset].astype(np.uint64) + np.uint64(1)
        context *= np.uint64(_MULTIPLIER)
        context ^= context >> np.uint64(29)
    kept = ~np.uint64((1 << bits) - 1)
    return (context & kept) | text[places + n - 1].astype(np.uint64)


def _find(ordered: npt.NDArray[np.uint64], wanted: npt.NDArray[np.uint64]) -> tuple[Numbers, npt.NDArray[np.bool_]]:
    """Return the position in `ordered` of each wanted number, and whether it is found."""
    places = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    found: npt.NDArray[np.bool_] = ordered[places] == wanted
    found_at: Numbers = places.astype(np.int64)
    return found_at, found


def _training_tokens(train: TokenSplit) -> Numbers:
    tokens: Numbers = train.read_at([0], min(train.tokens, MOST_TOKENS))[0]
    return tokens
