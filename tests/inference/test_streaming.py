"""Text as it is written, beside the text of all tokens at once."""

import pytest
from tokenizers import Tokenizer

from homegrown.inference.engine import Engine, Request
from homegrown.inference.generation import generate
from homegrown.inference.streaming import stream
from homegrown.model.transformer import Transformer
from homegrown.tokenizer.detokenizer import vocabulary_bytes


@pytest.fixture
def whole(model: Transformer, tokenizer: Tokenizer) -> str:
    return tokenizer.decode(generate(model, [[0, 50]], max_new_tokens=60)[0])


def test_the_pieces_are_the_whole(model: Transformer, tokenizer: Tokenizer, whole: str) -> None:
    pieces = list(
        stream(
            Engine(model, rows=1), Request(prompt=[0, 50], max_new_tokens=60), vocabulary_bytes(tokenizer), ["never"]
        )
    )
    assert "".join(piece.text for piece in pieces) == whole
    assert [piece.finish for piece in pieces] == [None] * 59 + ["length"]


def test_a_stop_string_over_several_tokens_ends_it(model: Transformer, tokenizer: Tokenizer, whole: str) -> None:
    stop, engine = whole[20:24], Engine(model, rows=1)
    pieces = list(stream(engine, Request(prompt=[0, 50], max_new_tokens=60), vocabulary_bytes(tokenizer), [stop]))
    assert "".join(piece.text for piece in pieces) == whole[: whole.index(stop)]
    assert pieces[-1].finish == "stop"
    assert engine.free == 1


def test_who_goes_away_early_leaves_the_engine_free(model: Transformer, tokenizer: Tokenizer) -> None:
    engine = Engine(model, rows=1)
    pieces = stream(engine, Request(prompt=[0, 50], max_new_tokens=60), vocabulary_bytes(tokenizer))
    next(pieces)
    assert engine.free == 0
    pieces.close()
    assert engine.free == 1
