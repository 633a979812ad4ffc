"""FineWeb's own rules (Penedo et al. 2024, section 3.6), as measures by text: (n,) float64 each.

Newlines separate lines; blank ones do not count.
"""

from homegrown.corpus.quality.repeats import repeated
from homegrown.corpus.quality.texts import Lined, Values, share, total

_SHORT = 30  # characters


def punctuated_lines(texts: Lined) -> Values:
    """Return the share of lines that end a sentence (Unicode's Sentence_Terminal). Published: at least 0.12."""
    return share(total(texts.starts, texts.punctuated & ~texts.blank), total(texts.starts, ~texts.blank))


def short_lines(texts: Lined) -> Values:
    """Return the share of lines of at most 30 characters. Published: at most 0.67."""
    return share(total(texts.starts, (texts.lengths <= _SHORT) & ~texts.blank), total(texts.starts, ~texts.blank))


def duplicate_line_characters(texts: Lined) -> Values:
    """Return the share of characters, without newlines, in lines that occurred before. Published: at most 0.01."""
    characters = repeated(texts.starts, texts.hashes, texts.lengths * ~texts.blank)
    return share(characters, texts.characters - texts.newlines)


def newlines_per_word(texts: Lined) -> Values:
    """Return the number of newlines per word. Published: at most 0.3."""
    return share(texts.newlines, texts.words)
