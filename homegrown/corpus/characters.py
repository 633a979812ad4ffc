"""Unicode tables of the compiled kernels: lower case, and the classes of characters."""

import string
import unicodedata
from functools import cache
from typing import NamedTuple

import numpy as np
import regex
from numpy.typing import NDArray

from homegrown.corpus.compiled import compiled

LETTER, WORD, ALONE, SPACE = 1, 2, 4, 8  # ALONE: of a script without spaces
BREAK = 16  # ends a line, as in str.splitlines
MARK = 32  # punctuation of CCNet (below), or the end of a sentence; a word of only these is a symbol
STOP = 64  # ends a sentence: Unicode's property Sentence_Terminal
PUNCTUATION = 128  # general category P
CODE_POINTS = 0x40000  # planes 0 to 3; later ones have only tags, variation selectors and private use

# CCNet's punctuation (Wenzek et al. 2020) beyond ASCII.
_CCNET = "、。〈〉《》「」【】！％（），．１：；？～«´»–—’“”„…∶━►"

# Scripts without spaces, by Unicode block.
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # marks of repetition
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),  # Katakana extensions
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),  # narrow Katakana
    (0x20000, 0x3FFFF),
)


_VARIANT = ("VARIATION SELECTOR", "COMBINING GRAPHEME JOINER")


class Characters(NamedTuple):
    """Two tables by code point: `lower` (uint32) and `kinds` (uint8, bits as above)."""

    lower: NDArray[np.uint32]
    kinds: NDArray[np.uint8]


@cache
def characters() -> Characters:
    """Return the tables, built once per process from Python's Unicode database.

    A word character is a letter, mark, number or connector (general categories L, M, N, Pc). Combining marks are part
    of letters, except those that enclose a character or select its variant, as emoji have them. Lower case is the
    simple mapping: U+0130, whose lower case has two characters, becomes the first of them, and the final sigma is not
    special.
    """
    lower = np.arange(CODE_POINTS, dtype=np.uint32)
    kinds = np.zeros(CODE_POINTS, dtype=np.uint8)
    for code in range(CODE_POINTS):
        character = chr(code)
        category = unicodedata.category(character)
        lower[code] = ord(character.lower()[0])
        if category[0] == "L" or (
            category in ("Mn", "Mc") and not unicodedata.name(character, "").startswith(_VARIANT)
        ):
            kinds[code] = LETTER | WORD
        elif category[0] in "MN" or category == "Pc":
            kinds[code] = WORD
        elif character.isspace():
            kinds[code] = SPACE
        if category[0] == "P":
            kinds[code] |= PUNCTUATION
    for first, last in _UNSPACED:
        block = kinds[first : last + 1]
        block[block & WORD != 0] |= ALONE
    every = "".join(map(chr, range(CODE_POINTS)))
    stops = {match.start() for match in regex.finditer(r"\p{Sentence_Terminal}", every)}
    kinds[list(stops)] |= STOP
    kinds[[*stops, *map(ord, string.punctuation + _CCNET)]] |= MARK
    kinds[[code for code in range(CODE_POINTS) if len(f"x{chr(code)}x".splitlines()) > 1]] |= BREAK
    return Characters(lower, kinds)


@compiled
def decode(data: NDArray[np.uint8], i: int) -> tuple[np.int64, int]:
    """Return the code point at byte `i` of the UTF-8 `data` and the index of the next one."""
    first = np.int64(data[i])
    if first < 0x80:
        return first, i + 1
    if first < 0xE0:
        return (first & 0x1F) << 6 | np.int64(data[i + 1] & 0x3F), i + 2
    if first < 0xF0:
        return (first & 0x0F) << 12 | np.int64(data[i + 1] & 0x3F) << 6 | np.int64(data[i + 2] & 0x3F), i + 3
    return (
        (first & 0x07) << 18
        | np.int64(data[i + 1] & 0x3F) << 12
        | np.int64(data[i + 2] & 0x3F) << 6
        | np.int64(data[i + 3] & 0x3F),
        i + 4,
    )
