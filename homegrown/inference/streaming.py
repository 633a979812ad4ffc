"""Generated tokens as text while the engine decodes them."""

import codecs
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from homegrown.inference.engine import Engine, FinishReason, GeneratedToken, Request
from homegrown.inference.sampling import Logprobs
from homegrown.tokenizer.detokenizer import TextStream
from homegrown.util.errors import UserError


@dataclass(frozen=True)
class TextToken:
    """A token with log-probabilities and its place in the text."""

    id: int
    logprob: float | None
    """None for the first token of a prompt."""
    top_logprobs: tuple[tuple[int, float], ...]
    data: bytes
    """Its bytes in the text; a stop string can cut the last token."""
    offset: int
    """Position of the character that has its first byte."""


@dataclass(frozen=True)
class Chunk:
    """The output of one step for one request; `finish_reason` is set on the last one."""

    text: str
    """The text that became final in this step; often empty, because a token can end inside a character."""
    tokens: tuple[TextToken, ...]
    """The tokens of `text`, if the request asks for log-probabilities."""
    completion_tokens: int
    """Tokens generated so far, including the one that ended the request."""
    finish_reason: FinishReason | None
    seconds: float
    """Computing time of the model for this request so far, without the time spent on other models."""
    prompt_logprobs: tuple[Logprobs, ...] = ()
    """Those of the prompt's tokens, on the first chunk, if the request asks for them."""


class _Places:
    """Positions of bytes in the text that they become, one character for each invalid sequence."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._complete, self._open = 0, False

    @property
    def characters(self) -> int:
        """Number of characters so far, including an incomplete one."""
        return self._complete + self._open

    def add(self, data: bytes) -> list[int]:
        """Return the position of the character of each byte."""
        found = []
        for byte in data:
            self._complete += len(self._decoder.decode(bytes([byte])))
            self._open = bool(self._decoder.getstate()[0])
            found.append(self._complete if self._open else self._complete - 1)
        return found


def prompt_tokens(ids: Sequence[int], logprobs: Sequence[Logprobs], table: Sequence[bytes]) -> tuple[TextToken, ...]:
    """Return the tokens of a prompt in its text."""
    places, tokens = _Places(), []
    for token, (logprob, top) in zip(ids, logprobs, strict=True):
        data, before = table[token], places.characters
        tokens.append(TextToken(token, logprob, top, data, (places.add(data) or [before])[0]))
    return tuple(tokens)


class Output:
    """The text of one request, fed token by token.

    With log-probabilities, text is released together with the tokens that it consists of.
    """

    def __init__(self, table: Sequence[bytes], request: Request):
        """Take the result of `vocabulary_bytes`, and a request."""
        self._request = request
        self._text = TextStream(table, () if request.min_tokens else request.stop)
        self._places, self._count = _Places(), 0
        self._pending: list[tuple[TextToken, list[int], int]] = []
        self._final, self._sent = "", 0

    def feed(
        self, token: GeneratedToken, unknown: bytes = b""
    ) -> tuple[str, tuple[TextToken, ...], FinishReason | None]:
        """Add a token; return released text and tokens, and why the request ended.

        `unknown` are bytes between the previous token and this one.
        """
        output = token.finish_reason != "stop" and self._request.max_tokens != 0
        data = unknown + (self._text.token_bytes(token.id) if output else b"")
        more = self._text.feed_bytes(data)
        if self._request.top_logprobs is not None:
            self._places.add(unknown)
            if output:
                self._place(token, data[len(unknown) :])
        self._count += 1
        if self._count == self._request.min_tokens:
            self._text.stop = list(self._request.stop)
        finish_reason: FinishReason | None = "stop" if self._text.stopped else token.finish_reason
        return (*self._release(more, finish_reason is not None), finish_reason)

    def end(self) -> tuple[str, tuple[TextToken, ...]]:
        """Return the remaining text and its tokens."""
        return self._release("", True)

    def _place(self, token: GeneratedToken, data: bytes) -> None:
        before = self._places.characters
        places = self._places.add(data)
        placed = TextToken(token.id, token.logprob, token.top_logprobs, data, (places or [before])[0])
        self._pending.append((placed, places, self._places.characters))

    def _release(self, more: str, ended: bool) -> tuple[str, tuple[TextToken, ...]]:
        if ended:
            more += self._text.end()
        if self._request.top_logprobs is None:
            return more, ()
        self._final += more
        most, sent = len(self._final), self._sent
        tokens: list[TextToken] = []
        while self._pending and (ended or self._pending[0][2] <= most):
            token, places, end = self._pending.pop(0)
            self._sent = max(sent, min(end, most))
            if token.offset < most or not self._text.stopped:
                inside = bytes(byte for byte, place in zip(token.data, places, strict=True) if place < most)
                tokens.append(
                    token
                    if inside == token.data
                    else TextToken(token.id, token.logprob, token.top_logprobs, inside, token.offset)
                )
        if ended:
            self._sent = most
        return self._final[sent : self._sent], tuple(tokens)


def grammar_failure(reason: str) -> str:
    """Return the error message of an output that its grammar ended early."""
    return f"The grammar failed during the output ({reason}); simplify it."


def stream(engine: Engine, request: Request, table: Sequence[bytes]) -> Generator[Chunk]:
    """Yield the output of a request as it is generated; `table` is that of `vocabulary_bytes`.

    No other request may use the engine meanwhile. Closing the generator early frees the engine.

    Raises:
        UserError: the request's grammar became too complex.
    """
    output, sequence, start = Output(table, request), engine.add(request), time.perf_counter()
    try:
        while generated := engine.step():
            text, tokens, finish_reason = output.feed(generated[sequence])
            if sequence.failure:
                raise UserError(grammar_failure(sequence.failure))
            yield Chunk(text, tokens, sequence.completion_tokens, finish_reason, time.perf_counter() - start)
            if finish_reason:
                return
    finally:
        engine.remove(sequence)
