"""Special tokens: those of a new tokenizer, and the roles of those of any tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer

from homegrown.util.errors import UserError

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|im_start|>", "<|im_end|>")
"""Those of a new tokenizer, in the order of their ids. The last two belong to the chat template."""

GUIDE_TOKENS = ("<PAD>", "<UNK>", "<CLS>", "<SEP>", "<MASK>", "<BOS>", "<EOS>")
"""Those of the guide's tokenizer."""

MESSAGE_TOKENS = SPECIAL_TOKENS[-2:]
"""Those of ChatML."""

# Their names in published tokenizers; the first is added to a new vocabulary that has none of them.
_NAMES = {
    "bos": ("<s>", "<|begin_of_text|>", "<bos>", "<BOS>", "<|startoftext|>", "<｜begin▁of▁sentence｜>"),
    "eos": ("</s>", "<|end_of_text|>", "<|endoftext|>", "<eos>", "<EOS>", "<｜end▁of▁sentence｜>"),
    "message_start": MESSAGE_TOKENS[:1],
    "message_end": MESSAGE_TOKENS[1:],
}


@dataclass(frozen=True)
class SpecialIds:
    """The ids of the start and end of a document, and of a message (ChatML); None for a token that is missing."""

    bos: int | None
    eos: int
    message_start: int | None
    message_end: int | None

    @property
    def start(self) -> int:
        """What precedes the first token of a document: `bos`, or without one the end of the previous document."""
        return self.eos if self.bos is None else self.bos


def special_ids(tokenizer: Tokenizer) -> SpecialIds:
    """Return the special tokens of a tokenizer: its post-processor's around a text, otherwise those by their names.

    Raises:
        ValueError: no token ends a document.
    """
    found = _find(tokenizer)
    if tokenizer.post_processor is not None:
        around = tokenizer.encode("a", add_special_tokens=True)
        mask = around.special_tokens_mask
        found |= {"bos": around.ids[0] if mask[0] else None}
        found |= {"eos": around.ids[-1]} if mask[-1] else {}
    if found["eos"] is None:
        raise ValueError("the tokenizer has no special token that ends a document")
    return SpecialIds(found["bos"], found["eos"], found["message_start"], found["message_end"])


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """Return the text of a token in the vocabulary."""
    return str(tokenizer.id_to_token(token))


def text_prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the ids of a text to continue, after the start token if the tokenizer has one; never empty."""
    marks = special_ids(tokenizer)
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return [marks.bos, *ids] if marks.bos is not None else ids or [marks.start]


def document_end(tokenizer: Tokenizer) -> int | None:
    """Return the special token that ends a document, by the names of published tokenizers; None without one."""
    return _find(tokenizer)["eos"]


def add_missing(tokenizer: Tokenizer, roles: Sequence[str] = tuple(_NAMES)) -> None:
    """Append the special tokens of these roles that the vocabulary lacks."""
    found = _find(tokenizer)
    names = [names[0] for role, names in _NAMES.items() if role in roles and found[role] is None]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])


def add_own(tokenizer: Tokenizer, names: Sequence[str]) -> list[str]:
    """Append tokens that text is searched for, and that stay visible; return those that were not there yet.

    Raises:
        UserError: a name is an ordinary token of the vocabulary.
    """
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    new = [name for name in names if name not in added]
    for name in new:
        if tokenizer.token_to_id(name) is not None:
            raise UserError(f"tokenizer.special_tokens: {name!r} is an ordinary token of the vocabulary; remove it.")
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in new])
    return new


def _find(tokenizer: Tokenizer) -> dict[str, int | None]:
    ids = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()}
    return {role: next((ids[name] for name in names if name in ids), None) for role, names in _NAMES.items()}
