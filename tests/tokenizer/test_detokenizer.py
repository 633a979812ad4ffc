"""Incremental detokenization, compared with decoding at once."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from homegrown.tokenizer.detokenizer import TextStream, vocabulary_bytes
from homegrown.tokenizer.loading import load


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return load(tokenizer_folder)


def test_any_tokens_give_the_decoded_text(tokenizer: Tokenizer) -> None:
    table = vocabulary_bytes(tokenizer)

    @settings(max_examples=150)
    @given(st.lists(st.integers(0, len(table) - 1), max_size=40))
    def check(tokens: list[int]) -> None:
        stream = TextStream(table)
        assert "".join([*map(stream.feed, tokens), stream.end()]) == tokenizer.decode(tokens)

    check()


def test_no_piece_breaks_a_character(tokenizer: Tokenizer) -> None:
    text = "naïve 日本語 🙂🙂 ŷ"
    stream = TextStream(vocabulary_bytes(tokenizer))
    pieces = [stream.feed(token) for token in tokenizer.encode(text).ids]
    assert "".join(pieces) == text
    assert "" in pieces
    assert not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=200)
@given(st.text("abé", max_size=30), st.lists(st.text("abé", min_size=1, max_size=5), max_size=3))
def test_text_ends_before_the_stop_string_that_comes_first(text: str, stop: list[str]) -> None:
    """Released text is final and contains no part of a stop string."""
    table = [bytes([byte]) for byte in range(256)]
    stream, released, fed = TextStream(table, stop), "", b""
    for byte in text.encode():
        released += stream.feed(byte)
        fed += bytes([byte])
        if stream.stopped:
            break
        pending = fed.decode(errors="ignore").removeprefix(released)
        assert not pending or any(string.startswith(pending) for string in stop)
    if not stream.stopped:
        released += stream.end()
    seen = fed.decode(errors="ignore")
    places = [seen.find(string) for string in stop if string in seen]
    assert released == (seen[: min(places)] if places else text)
    assert stream.stopped == any(string in text for string in stop)


def test_special_tokens_and_vocabulary_padding_have_no_text(tokenizer: Tokenizer) -> None:
    stream = TextStream(vocabulary_bytes(tokenizer))
    assert stream.feed(tokenizer.token_to_id("<|im_end|>")) + stream.feed(10**6) + stream.end() == ""
