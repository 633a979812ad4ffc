"""Measures of our own: length, share of letters, repeated neighbors."""

import numpy as np

from homegrown.corpus.quality.repeats import equal_neighbors
from homegrown.corpus.quality.texts import Texts, Values, share

_EXPECTED, _FOUND = 5, 3  # equal neighbors; with fewer, chance decides


def characters(texts: Texts) -> Values:
    """Return the number of characters."""
    return texts.counts.characters.astype(float)


def alphabetic_share(texts: Texts) -> Values:
    """Return the share of letters (Unicode category L) among the characters other than white space.

    Rae et al. 2021 require a letter in 80% of the words; by character the share is lower.
    """
    return share(texts.counts.letters, texts.counts.visible)


def repeated_neighbors(texts: Texts) -> Values:
    """Return the number of words equal to the preceding one, relative to the number expected in random order.

    Prose avoids them: 0 is usual, and words in random order have about 1. 0 for texts too short to tell, with fewer
    than three of them or fewer than five expected.
    """
    words = texts.words
    found, expected = equal_neighbors(words.starts, words.hashes, words.symbols, _FOUND)
    result: Values = np.where(expected >= _EXPECTED, found / np.maximum(expected, _EXPECTED), 0)
    return result
