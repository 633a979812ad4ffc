"""Text of one sequence as the engine writes it."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from homegrown.inference.engine import Engine, Finish, Request, Written
from homegrown.tokenizer.detokenizer import TextStream


@dataclass(frozen=True)
class Piece:
    """What one step added: a token, and the text that became certain with it. `finish` is set on the last one."""

    text: str
    written: Written
    finish: Finish | None


def stream(engine: Engine, request: Request, table: Sequence[bytes], stop: Sequence[str] = ()) -> Generator[Piece]:
    """Yield a request's text as it is written, up to a stop string; `table` is that of `vocabulary_bytes`.

    Nothing else may run on the engine meanwhile. A caller that goes away early leaves the engine free.
    """
    text, sequence = TextStream(table, stop), engine.add(request)
    try:
        while news := engine.step():
            (written,) = news
            more = "" if written.finish == "stop" else text.feed(written.token)
            finish: Finish | None = "stop" if text.stopped else written.finish
            if finish:
                more += text.end()
            yield Piece(more, written, finish)
            if finish:
                return
    finally:
        engine.remove(sequence)
