"""Text as it is generated, against the text of all tokens at once."""

import pytest
from tokenizers import Tokenizer

from homegrown.inference.engine import Engine, Request
from homegrown.inference.generation import generate
from homegrown.inference.streaming import stream
from homegrown.model.transformer import Transformer
from homegrown.tokenizer.detokenizer import vocabulary_bytes


@pytest.fixture
def complete(model: Transformer, tokenizer: Tokenizer) -> str:
    return tokenizer.decode(generate(model, [[0, 50]], max_tokens=60)[0])


def test_the_chunks_are_the_complete_text(model: Transformer, tokenizer: Tokenizer, complete: str) -> None:
    request = Request(prompt_ids=[0, 50], max_tokens=60, stop=("never",))
    chunks = list(stream(Engine(model, rows=1), request, vocabulary_bytes(tokenizer)))
    assert "".join(chunk.text for chunk in chunks) == complete
    assert [chunk.finish_reason for chunk in chunks] == [None] * 59 + ["length"]
    assert [chunk.completion_tokens for chunk in chunks] == list(range(1, 61))


def test_a_stop_string_over_several_tokens_ends_it(model: Transformer, tokenizer: Tokenizer, complete: str) -> None:
    stop, engine = complete[20:24], Engine(model, rows=1)
    request = Request(prompt_ids=[0, 50], max_tokens=60, stop=(stop,))
    chunks = list(stream(engine, request, vocabulary_bytes(tokenizer)))
    assert "".join(chunk.text for chunk in chunks) == complete[: complete.index(stop)]
    assert chunks[-1].finish_reason == "stop"
    assert engine.free == 1


def test_closing_early_frees_the_engine(model: Transformer, tokenizer: Tokenizer) -> None:
    engine = Engine(model, rows=1)
    chunks = stream(engine, Request(prompt_ids=[0, 50], max_tokens=60), vocabulary_bytes(tokenizer))
    next(chunks)
    assert engine.free == 0
    chunks.close()
    assert engine.free == 1
