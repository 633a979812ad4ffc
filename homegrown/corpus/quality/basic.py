"""Measures of our own: length, share of letters."""

from homegrown.corpus.quality.texts import Texts, Values, share


def characters(texts: Texts) -> Values:
    """Return the number of characters."""
    return texts.counts.characters.astype(float)


def alphabetic_share(texts: Texts) -> Values:
    """Return the share of letters (Unicode category L) among the characters other than white space.

    Rae et al. 2021 require a letter in 80% of the words; by character the share is lower.
    """
    return share(texts.counts.letters, texts.counts.visible)
