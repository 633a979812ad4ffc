"""Generated tokens as text while the engine decodes them."""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from homegrown.inference.engine import Engine, FinishReason, GeneratedToken, Request
from homegrown.tokenizer.detokenizer import TextStream


@dataclass(frozen=True)
class Chunk:
    """The output of one step for one request; `finish_reason` is set on the last one."""

    text: str
    """The text that became final in this step; often empty, because a token can end inside a character."""
    tokens: tuple[GeneratedToken, ...]
    completion_tokens: int
    """Tokens generated so far, including the one that ended the request."""
    finish_reason: FinishReason | None
    seconds: float
    """Computing time of the model for this request so far, without the time spent on other models."""


def decode_token(text: TextStream, token: GeneratedToken) -> tuple[str, FinishReason | None]:
    """Feed a token to the text of its request; return the text that became final, and why the request ended."""
    more = "" if token.finish_reason == "stop" else text.feed(token.id)
    finish_reason: FinishReason | None = "stop" if text.stopped else token.finish_reason
    return more + text.end() if finish_reason else more, finish_reason


def stream(engine: Engine, request: Request, table: Sequence[bytes]) -> Generator[Chunk]:
    """Yield the output of a request as it is generated; `table` is that of `vocabulary_bytes`.

    No other request may use the engine meanwhile. Closing the generator early frees the engine.
    """
    text, sequence, start = TextStream(table, request.stop), engine.add(request), time.perf_counter()
    try:
        while generated := engine.step():
            token = generated[sequence]
            more, finish_reason = decode_token(text, token)
            yield Chunk(more, (token,), sequence.completion_tokens, finish_reason, time.perf_counter() - start)
            if finish_reason:
                return
    finally:
        engine.remove(sequence)
