"""Text to token ids: with tiktoken's engine, several times as fast, wherever it gives the ids of `tokenizers`."""

import json
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import tiktoken
from tokenizers import Tokenizer, models

from homegrown.util.errors import UserError

SPLIT_PATTERN = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's, in the form of llama.cpp's pre-tokenizer "qwen2": `(?i:'s)` there would also take the long s of U+017F."""

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What `ByteLevel` splits at by itself (Radford et al. 2019)."""

_CASE_FOLDED = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_PATTERN, LLAMA3_PATTERN = _CASE_FOLDED % r"\p{N}", _CASE_FOLDED % r"\p{N}{1,3}"

# The two engines' regular expressions were compared on every character of Unicode with these, and split alike.
_COMPARED = (SPLIT_PATTERN, GPT2_PATTERN, QWEN2_PATTERN, LLAMA3_PATTERN)

# tiktoken's regular expressions give up (with a panic) where `\s+(?!\S)` has to step back a million times.
_LONG_BLANK_CHARACTERS = 500_000
_LONG_BLANK = re.compile(rf"\s{{{_LONG_BLANK_CHARACTERS}}}")


class Encoder:
    """Encodes plain text: the text of a special token (`</s>`) in it is text like any other.

    tiktoken joins the neighbours whose union has the smallest id, `tokenizers` the pair whose merge was learned first.
    They agree where ids follow the merges and a token's own text merges into that token; a tokenizer of which this
    cannot be shown is left to `tokenizers`. `fast` says which engine it is.
    """

    def __init__(self, tokenizer: Tokenizer):
        """Take over a byte-level BPE that `tokens.tokenizer` made or took."""
        description = json.loads(tokenizer.to_str())
        self._exact = Tokenizer.from_str(tokenizer.to_str())
        self._exact.encode_special_tokens = True
        pattern, ranks = split_pattern(description["pre_tokenizer"]), _ranks(description)
        self._tiktoken: tiktoken.Encoding | None = None
        if pattern and ranks and not description["normalizer"] and _merges_by_rank(description["model"], ranks):
            self._tiktoken = tiktoken.Encoding(
                "homegrown",
                pat_str=pattern,
                mergeable_ranks={to_bytes(token): rank for token, rank in ranks.items()},
                special_tokens={},
            )

    @property
    def fast(self) -> bool:
        """Whether tiktoken's engine encodes."""
        return self._tiktoken is not None

    def encode(self, text: str) -> npt.NDArray[np.uint32]:
        """Return the token ids of `text` (valid Unicode, no lone surrogates) as uint32 [tokens].

        Raises:
            UserError: the search for a given tokenizer's split pattern was given up, as it takes too long.
        """
        if self._tiktoken is None or (len(text) >= _LONG_BLANK_CHARACTERS and _LONG_BLANK.search(text)):
            return np.array(self._encode_exactly(text), dtype=np.uint32)
        # A list first: tiktoken's own way to an array looks for special tokens and takes 1.7 times as long.
        return np.array(self._tiktoken.encode_ordinary(text), dtype=np.uint32)

    def _encode_exactly(self, text: str) -> list[int]:
        try:
            ids: list[int] = self._exact.encode(text, add_special_tokens=False).ids
        except BaseException as error:
            # What a panic in Rust becomes is no Exception, and has no type that could be imported.
            if type(error).__name__ != "PanicException":
                raise
            raise UserError(
                f"The tokenizer's split pattern is one whose search was given up ({error}) in a text that begins with "
                f"{text[:40]!r}; give another tokenizer (tokenizer.path), or none to have one trained."
            ) from None
        return ids


def to_bytes(token: str) -> bytes:
    """Return the bytes that a token of a byte-level vocabulary writes as one printable character each.

    Raises KeyError for a character that stands for no byte.
    """
    return bytes(BYTES[character] for character in token)


def _byte_characters() -> dict[str, int]:
    """Return GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes for U+0100 onward, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + number): byte for number, byte in enumerate(others)}


BYTES = _byte_characters()


def split_pattern(pre_tokenizer: dict[str, Any] | None) -> str | None:
    """Return the regular expression at which text is split, or None if it is not one of those compared."""
    match pre_tokenizer:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
            return GPT2_PATTERN
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        } if pattern in _COMPARED:
            return pattern
    return None


def _ranks(description: dict[str, Any]) -> dict[str, int]:
    """Return the ordinary tokens with their ids; nothing if the model is no BPE of bytes."""
    model, special = description["model"], {token["content"] for token in description["added_tokens"]}
    if model["type"] != "BPE" or not BYTES.keys() <= model["vocab"].keys():
        return {}
    ranks: dict[str, int] = {token: rank for token, rank in model["vocab"].items() if token not in special}
    return ranks if all(BYTES.keys() >= set(token) for token in ranks) else {}


def _merges_by_rank(model: dict[str, Any], ranks: dict[str, int]) -> bool:
    """Say whether joining the neighbours of the smallest union, as tiktoken does, is what the merges do.

    Ids must not fall along the merges. Then both take the same steps until tiktoken joins two neighbours that no merge
    joins. Such a step would lie within the text of one token, and leave it as these two if it were all the text; so
    there is none in a token whose own text merges into it, and none in one that every split of it can be merged to.
    """
    merged = [ranks.get(first + second, -1) for first, second in model["merges"]]
    if -1 in merged or merged != sorted(merged):
        return False
    merges = [(first, second) for first, second in model["merges"]]
    plain, known = models.BPE(vocab=model["vocab"], merges=merges), set(merges)
    for token in ranks:
        if len(plain.tokenize(token)) == 1:
            continue
        splits = [(token[:place], token[place:]) for place in range(1, len(token))]
        joinable = all(split in known for split in splits if ranks.keys() >= set(split))
        # tiktoken takes a whole piece of text that is a token as that token.
        if not (model["ignore_merges"] and joinable):
            return False
    return True
