"""Gopher's quality rules (Rae et al. 2021, section A1.1), as measures by text: (n,) float64 each.

Words of only punctuation (CCNet's list) count neither for the number of words nor for their mean length, as in
datatrove; the other shares are of all words.
"""

import numpy as np
from numpy.typing import NDArray

from homegrown.corpus.compiled import compiled
from homegrown.corpus.quality.repeats import Pieces
from homegrown.corpus.quality.texts import StopWords, Texts, Values, share, total


def words(texts: Texts) -> Values:
    """Return the number of words. Published: 50 to 100,000."""
    return total(texts.words.starts, ~texts.words.symbols).astype(float)


def mean_word_length(texts: Texts) -> Values:
    """Return the mean length of the words in characters. Published: 3 to 10."""
    meant = ~texts.words.symbols
    return share(total(texts.words.starts, texts.words.lengths * meant), total(texts.words.starts, meant))


def hashes_per_word(texts: Texts) -> Values:
    """Return the number of # per word. Published: at most 0.1."""
    return share(texts.counts.hashes, np.diff(texts.words.starts))


def ellipses_per_word(texts: Texts) -> Values:
    """Return the number of ... and … per word. Published: at most 0.1."""
    return share(texts.counts.ellipses, np.diff(texts.words.starts))


def bullet_lines(texts: Texts) -> Values:
    """Return the share of lines that start with a bullet (• or -). Published: at most 0.9."""
    return share(total(texts.rows.starts, texts.rows.bullets), np.diff(texts.rows.starts))


def ellipsis_lines(texts: Texts) -> Values:
    """Return the share of lines that end with an ellipsis (... or …). Published: at most 0.3."""
    return share(total(texts.rows.starts, texts.rows.ellipses), np.diff(texts.rows.starts))


def alphabetic_words(texts: Texts) -> Values:
    """Return the share of words with a letter in them. Published: at least 0.8."""
    return share(total(texts.words.starts, texts.words.letters), np.diff(texts.words.starts))


def stop_words(texts: Texts) -> Values:
    """Return how many of the stop words of its language a text has, as they are listed. Published: at least 2."""
    return _different(texts.words.starts, texts.words.hashes, texts.stop_words).astype(float)


@compiled
def _different(starts: Pieces, hashes: NDArray[np.uint64], wanted: StopWords) -> Pieces:
    """Return by text how many of its stop words (at most 63) it has."""
    result = np.zeros(starts.size - 1, np.int64)
    for text in range(result.size):
        own = wanted.hashes[wanted.starts[wanted.lists[text]] : wanted.starts[wanted.lists[text] + 1]]
        found = 0
        for i in range(starts[text], starts[text + 1]):
            for k in range(own.size):
                if hashes[i] == own[k]:
                    found |= 1 << k
        while found:
            found &= found - 1
            result[text] += 1
    return result
