"""tiktoken compared with `tokenizers` on the same merges."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from homegrown.tokenizer import encoding
from homegrown.tokenizer.encoding import BYTES, GPT2_PATTERN, SMOLLM_PATTERN, SPLIT_PATTERN, TEKKEN_PATTERN, Encoder
from homegrown.tokenizer.loading import load
from homegrown.tokenizer.special import SPECIAL_TOKENS
from homegrown.util.errors import UserError
from tests.tokenizer.published import FORMS, LLAMA3, QWEN, adjacent, digits_form, edited, every_pair
from tests.tokenizer.texts import SYLLABLES, make_texts

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


@pytest.fixture(autouse=True, scope="module")
def kernel() -> Iterator[None]:
    """Have the kernel encode short texts too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "_KERNEL_FROM", 0)
        yield


@settings(max_examples=150, deadline=None)
@given(text=TEXT)
@example("")
@example("'ſ 'S'ſ İi K")
@example("a" * 5000 + " " * 5000)
@example(" a ab abc abcd abcde abcdef abcdefg abcdefgh abcdefghijklmno abcdefghijklmnop " * 2)
@example(("x" * 127 + " ") * 2 + ("-" * 128 + " ") * 2 + "y" * 129)
@example("tail\n\n \n  z\r\r \u2028a \u2028\u2028(b)1 2  3 \t")
def test_ids_are_those_of_tokenizers(tokenizer: Tokenizer, encoder: Encoder, text: str) -> None:
    assert encoder.encode(text).tolist() == tokenizer.encode(text).ids
    assert all_ids(encoder, ["", text, text]) == [[], *[tokenizer.encode(text).ids] * 2]


def all_ids(encoder: Encoder, texts: list[str]) -> list[list[int]]:
    """Return the ids by `encode_all`, of a slice of an array as readers give it."""
    return [ids.tolist() for ids in encoder.encode_all(pa.array(["before", *texts, "after"])[1:-1])]


@pytest.mark.parametrize("blank", [" ", "\t\u00a0"])
def test_blanks_too_long_for_tiktoken(tokenizer: Tokenizer, encoder: Encoder, blank: str) -> None:
    text = "head" + blank * (1_050_000 // len(blank)) + "tail"
    assert encoder.encode(text).tolist() == tokenizer.encode(text).ids


@pytest.mark.parametrize(
    ("pattern", "step"),
    [(SPLIT_PATTERN, 1), (GPT2_PATTERN, 16), (LLAMA3, 16), (QWEN, 16), (SMOLLM_PATTERN, 16), (TEKKEN_PATTERN, 16)],
)
def test_every_character_is_split_alike(pattern: str, step: int) -> None:
    """With a token for every pair of bytes, ids show where a text was split."""
    tokenizer = every_pair(pattern)
    if pattern == SMOLLM_PATTERN:
        tokenizer.pre_tokenizer = digits_form().pre_tokenizer
    encoder = Encoder(tokenizer)
    assert encoder.fast
    # All that is assigned; of ideographs, syllables and private use, large blocks of one kind, every sixteenth.
    alike = [*range(0x3400, 0xA000, 16), *range(0xAC00, 0xD7A4, 16), *range(0xE000, 0xF900, 16)]
    codes = [*range(0x3400), *range(0xA000, 0xAC00), *range(0xD7A4, 0xD800), *range(0xF900, 0x20000), *alike]
    codes += [*range(0x20000, 0x34000, 16), *range(0xE0000, 0xE0200)]
    for start in range(0, len(codes), 4096):
        characters = map(chr, codes[start : start + 4096 : step])
        text = "".join(f"a{character}a 1{character} '{character}\n" for character in characters)
        assert encoder.encode(text).tolist() == tokenizer.encode(text).ids
        lines = text.split("\n")
        assert all_ids(encoder, lines) == [tokenizer.encode(line).ids for line in lines]


@pytest.mark.parametrize("form", FORMS)
def test_published_forms(form: str) -> None:
    theirs = FORMS[form]()
    theirs.normalizer, theirs.post_processor, theirs.encode_special_tokens = None, None, True
    theirs.no_truncation()
    encoder = Encoder(theirs)
    assert encoder.fast

    @settings(max_examples=80, deadline=None)
    @given(text=TEXT)
    @example("'ſ 'S'ſ İi K 1234567 'LL")
    def check(text: str) -> None:
        assert encoder.encode(text).tolist() == theirs.encode(text).ids
        assert all_ids(encoder, [text]) == [theirs.encode(text).ids]

    check()


def test_a_full_memory_of_words_changes_nothing(encoder: Encoder, tokenizer: Tokenizer) -> None:
    texts = make_texts(9, 40)
    encoder.encode_all(pa.array(texts))
    kernel = encoder._kernel
    assert kernel is not None
    memory = kernel._idle[0]
    memory.used[:] = 2**40
    new = make_texts(10, 40)
    assert all_ids(encoder, [*texts, *new]) == [tokenizer.encode(text).ids for text in [*texts, *new]]
    kernel._idle.clear()


def test_threads_encode_at_once(encoder: Encoder, tokenizer: Tokenizer) -> None:
    batches = [make_texts(seed, 20) for seed in range(20, 32)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda texts: all_ids(encoder, texts), batches * 4))
    assert found == [[tokenizer.encode(text).ids for text in texts] for texts in batches * 4]


def _other_pattern(tokenizer: Tokenizer) -> Tokenizer:
    return Tokenizer.from_str(tokenizer.to_str().replace("[^\\\\s", "[^\\\\s_", 1))


def _merges_out_of_order(tokenizer: Tokenizer) -> Tokenizer:
    return edited(tokenizer, merges=adjacent(json.loads(tokenizer.to_str())["model"]["merges"]))


def _token_without_its_merge(tokenizer: Tokenizer) -> Tokenizer:
    return edited(tokenizer, merges=json.loads(tokenizer.to_str())["model"]["merges"][:-1])


@pytest.mark.parametrize("change", [_other_pattern, _merges_out_of_order, _token_without_its_merge])
def test_tokenizers_encodes_where_ids_could_differ(
    tokenizer: Tokenizer, change: Callable[[Tokenizer], Tokenizer]
) -> None:
    changed = change(tokenizer)
    changed.encode_special_tokens = True
    assert changed.to_str() != tokenizer.to_str()
    encoder = Encoder(changed)
    assert not encoder.fast
    for text in make_texts(7, 20):
        assert encoder.encode(text).tolist() == changed.encode(text).ids
        assert all_ids(encoder, [text]) == [changed.encode(text).ids]


def test_a_merge_that_spells_a_special_token_is_left_to_tokenizers() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["ab"], show_progress=False)
    tokenizer.train_from_iterator(["ab ab ab abab"], trainer)
    assert not Encoder(tokenizer).fast


def test_a_split_pattern_that_never_ends_is_an_error() -> None:
    hostile = Tokenizer(models.BPE(vocab={character: number for number, character in enumerate(BYTES)}, merges=[]))
    split = pre_tokenizers.Split(Regex("(x+x+)+y|."), "isolated")
    hostile.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    encoder = Encoder(hostile)
    assert len(encoder.encode("xxy")) == 3
    with pytest.raises(UserError, match=r"split pattern .* starts with 'xxxx.*; set tokenizer.path"):
        encoder.encode("x" * 60)
