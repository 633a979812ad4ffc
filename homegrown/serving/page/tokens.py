"""Written tokens as HTML: each a span that is shaded by its probability and carries what its tooltip says."""

import math
from collections.abc import Sequence
from html import escape

from homegrown.serving.completion import Token, Written

_LIGHTEST = 9
"""Classes s9 (expected) to s0: one for each bit of surprise, which is minus the binary logarithm of the probability."""

_SIGNS = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}


def span(text: str, tokens: Sequence[Written]) -> str:
    """Return a piece of text as HTML, with the tokens that it came with and the likeliest ones in their places.

    A piece has several tokens where one of them ends inside a character or could have begun a stop string; it is shaded
    by the most surprising one. Every text is escaped: what a model writes is never markup.
    """
    if not tokens:
        return escape(text)
    surprise = max(-written.token.logprob for written in tokens) / math.log(2)
    shade = max(0, _LIGHTEST - max(0, int(surprise)))
    return f'<span class="token s{shade}" data-tip="{_attribute(tip(tokens))}">{escape(text)}</span>'


def tip(tokens: Sequence[Written]) -> str:
    """Return what a tooltip says: a line `probability<tab>token` for each token and for what else was likely there."""
    return "\n".join("\n".join(_lines(written)) for written in tokens)


def _lines(written: Written) -> list[str]:
    others = [other for other in written.likeliest if other.id != written.token.id]
    first, *rest = (f"{percent(_probability(token))}\t{visible(token.data)}" for token in (written.token, *others))
    return [f"*{first}", *rest]


def percent(probability: float) -> str:
    """Return a probability as it is read: 87.3%, or <0.1%."""
    return "<0.1%" if probability < 0.0005 else f"{probability:.1%}"


def visible(data: bytes) -> str:
    """Return a token on one line: its blanks and ends of lines seen, a part of a character in hexadecimal."""
    if not data:
        return "(end)"
    return "".join(_SIGNS.get(character, character) for character in data.decode("utf-8", "backslashreplace"))


def _probability(token: Token) -> float:
    return min(1.0, math.exp(token.logprob))


def _attribute(text: str) -> str:
    # Written as references, ends of lines and tabs survive whatever else handles the page.
    return escape(text).replace("\n", "&#10;").replace("\t", "&#9;")
