"""Imported tokenizers: their own ids, and lossless decoding."""

import json
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from homegrown.config.tokens import PackSettings, TokenizerSettings
from homegrown.data.loader import TokenSplit
from homegrown.data.packing import pack
from homegrown.tokenizer.encoding import Encoder
from homegrown.tokenizer.existing import completed, mark_documents, take
from homegrown.tokenizer.loading import load, token_bytes
from homegrown.tokenizer.special import special_ids, text_prompt
from homegrown.tokenizer.train import train_tokenizer
from homegrown.util.errors import UserError
from tests.tokenizer.published import FORMS, digits_form, gpt2_form
from tests.tokenizer.texts import SYLLABLES, make_texts

TEXT = st.one_of(st.text(), st.lists(st.sampled_from([*SYLLABLES, "<|endoftext|>", "<tool_call>", " "])).map("".join))


@pytest.fixture(scope="module", params=FORMS)
def theirs(request: pytest.FixtureRequest) -> Tokenizer:
    return FORMS[request.param]()


@pytest.fixture(scope="module")
def taken(theirs: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("theirs")
    theirs.save(str(folder / "tokenizer.json"))
    taken = take(folder)
    mark_documents(taken, taken.token_to_id("<|begin_of_text|>"), taken.token_to_id("<|im_end|>"))
    return taken


def test_ids_equal_the_original(theirs: Tokenizer, taken: Tokenizer) -> None:
    theirs.no_truncation()
    for text in make_texts(3, 50):
        ids = taken.encode(text, add_special_tokens=False).ids
        assert ids == theirs.encode(text, add_special_tokens=False).ids == Encoder(taken).encode(text).tolist()


def test_any_text_round_trips_in_its_normal_form(taken: Tokenizer) -> None:
    @given(text=TEXT)
    def check(text: str) -> None:
        ids = taken.encode(text, add_special_tokens=False).ids
        text = text if taken.normalizer is None else unicodedata.normalize("NFC", text)
        assert taken.decode(ids) == text
        assert token_bytes(taken)[ids].sum() == len(text.encode())

    check()


def test_a_base_keeps_its_vocabulary_and_its_flags(theirs: Tokenizer, taken: Tokenizer) -> None:
    assert taken.get_vocab() == theirs.get_vocab()
    flags = {number: repr(token) for number, token in theirs.get_added_tokens_decoder().items()}
    assert {number: repr(token) for number, token in taken.get_added_tokens_decoder().items()} == flags
    ids, named = special_ids(taken), theirs.token_to_id
    assert ids.bos == named("<|begin_of_text|>")
    assert ids.eos == (named("<|end_of_text|>") or named("<|endoftext|>"))
    assert ids.start == (ids.eos if ids.bos is None else ids.bos)
    assert (ids.message_start, ids.message_end) == (named("<|im_start|>"), named("<|im_end|>"))
    assert text_prompt(taken, "") == [ids.start]
    assert text_prompt(taken, "ka") == [
        *([] if ids.bos is None else [ids.bos]),
        *taken.encode("ka", add_special_tokens=False).ids,
    ]


def test_a_new_model_gets_the_special_tokens_that_a_vocabulary_lacks(theirs: Tokenizer, tmp_path: Path) -> None:
    theirs.save(str(tmp_path / "tokenizer.json"))
    new = completed(take(tmp_path))
    ids, size = special_ids(new), theirs.get_vocab_size()
    numbers = [ids.bos, ids.eos, ids.message_start, ids.message_end]
    assert len(set(numbers)) == 4
    assert token_bytes(new)[[number for number in numbers if number is not None]].tolist() == [0] * 4
    assert set(range(size, new.get_vocab_size())) == {
        number for number in numbers if number is not None and number >= size
    }
    assert ids.bos == (theirs.token_to_id("<|begin_of_text|>") or size)


def test_a_vocabulary_without_an_end_token_gets_one(tmp_path: Path) -> None:
    description = json.loads(gpt2_form().to_str())
    del description["added_tokens"][0]
    (tmp_path / "tokenizer.json").write_text(json.dumps(description))
    taken = take(tmp_path)
    mark_documents(taken, None, None)
    assert special_ids(taken).eos == taken.token_to_id("</s>") == taken.get_vocab_size() - 1


def test_the_stages_use_it(shards: Path, tmp_path: Path) -> None:
    gpt2_form().save(str(tmp_path / "gpt2.json"))
    settings = TokenizerSettings(path=str(tmp_path / "gpt2.json"), vocabulary_size=512, sample_mb=1)
    outcome = train_tokenizer(tmp_path / "tokenizer", shards, settings)
    tokenizer = load(tmp_path / "tokenizer")
    assert outcome.rows_out == tokenizer.get_vocab_size() == gpt2_form().get_vocab_size() + 3
    assert sum(pq.read_table(tmp_path / "tokenizer" / "sources")["documents"].to_pylist()) == 180
    with ThreadPoolExecutor(1) as executor:
        pack(tmp_path / "pack", shards, tmp_path / "tokenizer", PackSettings(), executor=executor)
    document = TokenSplit(tmp_path / "pack", "train").document(0).tolist()
    ids = special_ids(tokenizer)
    assert (document[0], document[-1]) == (ids.bos, ids.eos)
    assert ids.bos not in document[1:]
    assert ids.eos not in document[:-1]


def _unigram() -> Tokenizer:
    return Tokenizer(models.Unigram([("a", -1.0), ("b", -2.0)], unk_id=0))


def _few_bytes() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(["a b c"], trainers.BpeTrainer(show_progress=False))
    return tokenizer


def _with(attribute: str, value: Any) -> Tokenizer:
    tokenizer = gpt2_form()
    setattr(tokenizer, attribute, value)
    return tokenizer


def _gap() -> Tokenizer:
    description = json.loads(gpt2_form().to_str())
    vocab = description["model"]["vocab"]
    vocab[max(vocab, key=vocab.__getitem__)] += 5
    return Tokenizer.from_str(json.dumps(description))


def _removed() -> pre_tokenizers.PreTokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(" ", behavior="removed"), byte_level])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_unigram, "is a Unigram tokenizer"),
        (_few_bytes, "does not decode a text to the same text"),
        (lambda: _with("normalizer", normalizers.Lowercase()), "changes the text .*Lowercase"),
        (lambda: _with("pre_tokenizer", pre_tokenizers.Metaspace()), "is not byte-level"),
        (lambda: _with("pre_tokenizer", None), "is not byte-level"),
        (lambda: _with("pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)), "adds to the text"),
        (lambda: _with("pre_tokenizer", _removed()), "removes from it"),
        (_gap, "gaps between its token ids"),
    ],
)
def test_an_unsupported_tokenizer_is_an_error(make: Any, reason: str, tmp_path: Path) -> None:
    make().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=rf"tokenizer\.path: .*{reason}.*name a"):
        take(tmp_path)


def test_a_missing_or_damaged_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.path: .*tokenizer\.json is not found"):
        take(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.path: .*is not a tokenizer"):
        take(tmp_path / "tokenizer.json")


def test_a_name_in_the_ordinary_vocabulary_is_not_special() -> None:
    with pytest.raises(ValueError, match="no special token that ends a document"):
        special_ids(_few_bytes())
    assert digits_form().token_to_id("<|endoftext|>") is not None
