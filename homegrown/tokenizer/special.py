"""Special tokens: those of a tokenizer trained here, and which of any tokenizer's mark documents and messages."""

from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|im_start|>", "<|im_end|>")
"""Of a tokenizer trained here; their ids are their places. The last two belong to the chat template."""

# What published tokenizers call them; the first is what is added where there is none. GPT-2's and Qwen's have no start
# of their own: one token at both ends could not be told apart, so such a tokenizer is given `<s>`.
_NAMES = {
    "bos": ("<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>", "<｜begin▁of▁sentence｜>"),
    "eos": ("</s>", "<|end_of_text|>", "<|endoftext|>", "<eos>", "<｜end▁of▁sentence｜>"),
    "message_start": ("<|im_start|>",),
    "message_end": ("<|im_end|>",),
}


@dataclass(frozen=True)
class SpecialIds:
    """The ids that packing, generation and chat need: a document's start and end, and a message's (ChatML)."""

    bos: int
    eos: int
    message_start: int
    message_end: int


def special_ids(tokenizer: Tokenizer) -> SpecialIds:
    """Return the ids of a tokenizer that was made here or has been through `add_missing`.

    Raises:
        ValueError: it lacks one of them.
    """
    found = _find(tokenizer)
    if missing := _NAMES.keys() - found.keys():
        raise ValueError(f"the tokenizer has no special token for {', '.join(sorted(missing))}")
    return SpecialIds(**found)


def add_missing(tokenizer: Tokenizer) -> None:
    """Add the special tokens that are needed and missing, after all that the tokenizer has."""
    found = _find(tokenizer)
    names = [names[0] for role, names in _NAMES.items() if role not in found]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])


def _find(tokenizer: Tokenizer) -> dict[str, int]:
    ids = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()}
    found = {role: [ids[name] for name in names if name in ids] for role, names in _NAMES.items()}
    return {role: numbers[0] for role, numbers in found.items() if numbers}
