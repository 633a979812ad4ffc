"""Gopher's repetition rules (Rae et al. 2021, table A1), as measures by text: (n,) float64 each.

Shares of characters are of all characters of the text. White space separates the words of n-grams.
"""

import numpy as np
from numpy.typing import NDArray

from homegrown.corpus.quality.repeats import repeated
from homegrown.corpus.quality.texts import Lines, Paragraphs, Texts, Values, share


def duplicate_paragraphs(texts: Texts) -> Values:
    """Return the share of paragraphs that occurred before. Published: at most 0.30."""
    return _repeated_share(texts.paragraphs)


def duplicate_paragraph_characters(texts: Texts) -> Values:
    """Return the share of characters in paragraphs that occurred before. Published: at most 0.20."""
    return _repeated_characters(texts, texts.paragraphs)


def duplicate_lines(texts: Texts) -> Values:
    """Return the share of lines, without empty ones, that occurred before. Published: at most 0.30."""
    return _repeated_share(texts.lines)


def duplicate_line_characters(texts: Texts) -> Values:
    """Return the share of characters in lines that occurred before. Published: at most 0.20."""
    return _repeated_characters(texts, texts.lines)


def top_2gram(texts: Texts) -> Values:
    """Return the share of characters in the most common 2-gram. Published: at most 0.20."""
    return _top(texts, 2)


def top_3gram(texts: Texts) -> Values:
    """Return the share of characters in the most common 3-gram. Published: at most 0.18."""
    return _top(texts, 3)


def top_4gram(texts: Texts) -> Values:
    """Return the share of characters in the most common 4-gram. Published: at most 0.16."""
    return _top(texts, 4)


def duplicate_5grams(texts: Texts) -> Values:
    """Return the share of characters in 5-grams that occurred before. Published: at most 0.15."""
    return _duplicate(texts, 5)


def duplicate_6grams(texts: Texts) -> Values:
    """Return the share of characters in 6-grams that occurred before. Published: at most 0.14."""
    return _duplicate(texts, 6)


def duplicate_7grams(texts: Texts) -> Values:
    """Return the share of characters in 7-grams that occurred before. Published: at most 0.13."""
    return _duplicate(texts, 7)


def duplicate_8grams(texts: Texts) -> Values:
    """Return the share of characters in 8-grams that occurred before. Published: at most 0.12."""
    return _duplicate(texts, 8)


def duplicate_9grams(texts: Texts) -> Values:
    """Return the share of characters in 9-grams that occurred before. Published: at most 0.11."""
    return _duplicate(texts, 9)


def duplicate_10grams(texts: Texts) -> Values:
    """Return the share of characters in 10-grams that occurred before. Published: at most 0.10."""
    return _duplicate(texts, 10)


def _repeated_share(pieces: Lines | Paragraphs) -> Values:
    once: NDArray[np.int32] = np.ones(len(pieces.hashes), np.int32)
    return share(repeated(pieces.starts, pieces.hashes, once), np.diff(pieces.starts))


def _repeated_characters(texts: Texts, pieces: Lines | Paragraphs) -> Values:
    return share(repeated(pieces.starts, pieces.hashes, pieces.lengths), texts.counts.characters)


def _top(texts: Texts, n: int) -> Values:
    return share(texts.ngrams[0][n - 2], texts.counts.characters)


def _duplicate(texts: Texts, n: int) -> Values:
    return share(texts.ngrams[1][n - 5], texts.counts.characters)
