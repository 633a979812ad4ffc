"""Generated tokens as HTML: each is a span, shaded by its probability, with the content of its tooltip."""

import math
from collections.abc import Callable, Sequence
from html import escape

from homegrown.inference.streaming import TextToken

_LIGHTEST = 9
"""Classes s9 (expected) to s0: one per bit of surprise, which is minus the binary logarithm of the probability."""

_SIGNS = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}


def span(text: str, tokens: Sequence[TextToken], token_bytes: Callable[[int], bytes]) -> str:
    """Return a piece of output as HTML, with its tokens and the top tokens in their places.

    A piece has several tokens if one of them ends inside a character or could start a stop string; its shade is that
    of the most surprising one. All text is escaped: output of a model is never markup.
    """
    if not tokens:
        return escape(text)
    surprise = -math.log2(min(_probability(token.logprob) for token in tokens))
    shade = max(0, _LIGHTEST - int(surprise))
    return f'<span class="token s{shade}" data-tip="{_attribute(tip(tokens, token_bytes))}">{escape(text)}</span>'


def tip(tokens: Sequence[TextToken], token_bytes: Callable[[int], bytes]) -> str:
    """Return the content of a tooltip: a line `probability<tab>token` per token and per alternative."""

    def line(token: int, logprob: float | None) -> str:
        return f"{percent(_probability(logprob))}\t{visible(token_bytes(token))}"

    lines = []
    for token in tokens:
        lines.append(f"*{line(token.id, token.logprob)}")
        lines += [line(*top) for top in token.top_logprobs if top[0] != token.id]
    return "\n".join(lines)


def percent(probability: float) -> str:
    """Return a probability for people: 87.3%, or <0.1%."""
    return "<0.1%" if probability < 0.0005 else f"{probability:.1%}"


def visible(data: bytes) -> str:
    """Return a token on one line: white space as signs, part of a character in hexadecimal."""
    if not data:
        return "(end)"
    return "".join(_SIGNS.get(character, character) for character in data.decode("utf-8", "backslashreplace"))


def _probability(logprob: float | None) -> float:
    # Never 0, which has no logarithm.
    return min(1.0, max(math.exp(logprob or 0.0), math.ulp(0.0)))


def _attribute(text: str) -> str:
    # As references, line breaks and tabs are kept by everything else that handles the page.
    return escape(text).replace("\n", "&#10;").replace("\t", "&#9;")
