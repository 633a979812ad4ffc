"""Special tokens: those of a new tokenizer, and the roles of those of any tokenizer."""

from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|im_start|>", "<|im_end|>")
"""Those of a new tokenizer, in the order of their ids. The last two belong to the chat template."""

# Their names in published tokenizers; the first is added if none is found. GPT-2's and Qwen's have no start token, and
# one token for both ends would be ambiguous, so `<s>` is added.
_NAMES = {
    "bos": ("<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>", "<｜begin▁of▁sentence｜>"),
    "eos": ("</s>", "<|end_of_text|>", "<|endoftext|>", "<eos>", "<｜end▁of▁sentence｜>"),
    "message_start": ("<|im_start|>",),
    "message_end": ("<|im_end|>",),
}


@dataclass(frozen=True)
class SpecialIds:
    """The ids of the start and end of a document, and of a message (ChatML)."""

    bos: int
    eos: int
    message_start: int
    message_end: int


def special_ids(tokenizer: Tokenizer) -> SpecialIds:
    """Return the ids of a tokenizer trained here or completed by `add_missing`.

    Raises:
        ValueError: one of them is missing.
    """
    found = _find(tokenizer)
    if missing := _NAMES.keys() - found.keys():
        raise ValueError(f"the tokenizer has no special token for {', '.join(sorted(missing))}")
    return SpecialIds(**found)


def add_missing(tokenizer: Tokenizer) -> None:
    """Append the missing special tokens to the vocabulary."""
    found = _find(tokenizer)
    names = [names[0] for role, names in _NAMES.items() if role not in found]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])


def _find(tokenizer: Tokenizer) -> dict[str, int]:
    ids = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()}
    found = {role: [ids[name] for name in names if name in ids] for role, names in _NAMES.items()}
    return {role: numbers[0] for role, numbers in found.items() if numbers}
