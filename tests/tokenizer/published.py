"""Small tokenizers in the forms in which GPT-2's, Llama 3's and Qwen's are published, trained on made-up text."""

import json
from itertools import pairwise
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.tokenizer.texts import make_texts

# As these tokenizers have them; written out here so that a slip in the engine's own copies is seen.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA3.replace("{1,3}", "")


def gpt2_form() -> Tokenizer:
    """Bytes, merges, and one special token at the end that marks both ends of a text."""
    tokenizer = _trained(pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def llama3_form() -> Tokenizer:
    """Ranks instead of merges: each split of a token into two is a merge, and complete pieces are looked up first."""
    tokenizer = _trained(_split(LLAMA3))
    description = json.loads(tokenizer.to_str())
    vocab: dict[str, int] = description["model"]["vocab"]
    splits = [
        (vocab[token], vocab[token[:place]], vocab[token[place:]], token[:place], token[place:])
        for token in vocab
        for place in range(1, len(token))
        if token[:place] in vocab and token[place:] in vocab
    ]
    description["model"]["merges"] = [[first, second] for *_, first, second in sorted(splits)]
    description["model"]["ignore_merges"] = True
    tokenizer = Tokenizer.from_str(json.dumps(description))
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>"])
    begin = tokenizer.token_to_id("<|begin_of_text|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", begin)]
    )
    return tokenizer


def qwen_form() -> Tokenizer:
    """NFC first, digits one by one, and an added token that is not special."""
    tokenizer = _trained(_split(QWEN))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
    tokenizer.enable_truncation(20)
    return tokenizer


def digits_form() -> Tokenizer:
    """SmolLM's and StarCoder's: digits one by one, then GPT-2's splits."""
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer = _trained(pre_tokenizers.Sequence(steps))
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


FORMS = {"gpt2": gpt2_form, "llama3": llama3_form, "qwen": qwen_form, "digits": digits_form}


def every_pair(pattern: str) -> Tokenizer:
    """A token for every byte and for every pair of bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [(first, second) for first in alphabet for second in alphabet]
    vocab = {token: number for number, token in enumerate([*alphabet, *map("".join, pairs)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=pairs))
    tokenizer.pre_tokenizer = _split(pattern)
    return tokenizer


def edited(tokenizer: Tokenizer, **model: Any) -> Tokenizer:
    """Return a tokenizer with other values in its model."""
    description = json.loads(tokenizer.to_str())
    description["model"] |= model
    return Tokenizer.from_str(json.dumps(description))


def adjacent(merges: list[list[str]]) -> list[list[str]]:
    """Return the merges with the first two neighbours exchanged of which neither needs the other."""
    for place, (first, second) in enumerate(pairwise(merges)):
        if "".join(first) not in second:
            return [*merges[:place], second, first, *merges[place + 2 :]]
    raise AssertionError("every merge needs its predecessor")


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), behavior="isolated"), byte_level])


def _trained(pre_tokenizer: pre_tokenizers.PreTokenizer) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(make_texts(0, 100), trainer)
    return tokenizer
