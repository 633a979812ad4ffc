"""FineWeb's own rules (Penedo et al. 2024, section 3.6), as measures by text: (n,) float64 each.

Newlines separate lines; blank ones do not count.
"""

import numpy as np

from homegrown.corpus.quality.repeats import repeated
from homegrown.corpus.quality.texts import Texts, Values, share, total

_SHORT = 30  # characters


def punctuated_lines(texts: Texts) -> Values:
    """Return the share of lines that end a sentence (Unicode's Sentence_Terminal). Published: at least 0.12."""
    lines = texts.lines
    return share(total(lines.starts, lines.punctuated & ~lines.blank), total(lines.starts, ~lines.blank))


def short_lines(texts: Texts) -> Values:
    """Return the share of lines of at most 30 characters. Published: at most 0.67."""
    lines = texts.lines
    return share(total(lines.starts, (lines.lengths <= _SHORT) & ~lines.blank), total(lines.starts, ~lines.blank))


def duplicate_line_characters(texts: Texts) -> Values:
    """Return the share of characters, without newlines, in lines that occurred before. Published: at most 0.01."""
    lines = texts.lines
    characters = repeated(lines.starts, lines.hashes, lines.lengths * ~lines.blank)
    return share(characters, texts.counts.characters - texts.counts.newlines)


def newlines_per_word(texts: Texts) -> Values:
    """Return the number of newlines per word. Published: at most 0.3."""
    return share(texts.counts.newlines, np.diff(texts.words.starts))
