"""tiktoken's engine against `tokenizers` on the same merges."""

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_up import SYLLABLES
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from homegrown.tokens.encoding import Encoder
from homegrown.tokens.tokenizer import SPECIAL_TOKENS, load

TEXT = st.one_of(
    st.text(max_size=200),
    st.text(alphabet=" \t\n\r\u00a0\u3000\x1c\x85'sStTlLſKé́1٣a.<>", max_size=60),
    st.lists(st.sampled_from([*SYLLABLES, *SPECIAL_TOKENS, " ", "  ", "\r\n"]), max_size=60).map("".join),
)


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return load(tokenizer_folder)


@pytest.fixture(scope="module")
def encoder(tokenizer: Tokenizer) -> Encoder:
    return Encoder(tokenizer)


@settings(max_examples=1000, deadline=None)
@given(text=TEXT)
@example("")
@example("'ſ 'S'ſ İi K")
@example("a" * 5000 + " " * 5000)
def test_ids_are_those_of_tokenizers(tokenizer: Tokenizer, encoder: Encoder, text: str) -> None:
    assert encoder.encode(text).tolist() == tokenizer.encode(text).ids


@pytest.mark.parametrize("blank", [" ", "\t\u00a0"])
def test_blanks_too_long_for_tiktoken(tokenizer: Tokenizer, encoder: Encoder, blank: str) -> None:
    text = "head" + blank * (1_050_000 // len(blank)) + "tail"
    assert encoder.encode(text).tolist() == tokenizer.encode(text).ids


def test_a_tokenizer_that_merges_into_a_special_token_is_refused() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["ab"], show_progress=False)
    tokenizer.train_from_iterator(["ab ab ab abab"], trainer)
    with pytest.raises(ValueError, match="byte-level BPE"):
        Encoder(tokenizer)


def test_merges_out_of_order_are_refused(tokenizer: Tokenizer) -> None:
    import json

    description = json.loads(tokenizer.to_str())
    merges = description["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]
    with pytest.raises(ValueError, match="follow its merges"):
        Encoder(Tokenizer.from_str(json.dumps(description)))
