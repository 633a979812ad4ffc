"""Text to token ids: with tiktoken or a kernel, many times as fast, wherever they give the same ids as `tokenizers`."""

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tiktoken
from tokenizers import Tokenizer, models

from homegrown.util.errors import UserError

if TYPE_CHECKING:
    from homegrown.tokenizer.compiled_bpe import CompiledBpe

_SPELLED_OUT = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLIT_PATTERN, LLAMA3_SPLIT_PATTERN = _SPELLED_OUT % r"\p{N}", _SPELLED_OUT % r"\p{N}{1,3}"
"""Those of Qwen2 and Llama 3 as llama.cpp has them: `(?i:'s)` would also match the long s, U+017F."""

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The default split pattern of `ByteLevel` (Radford et al. 2019)."""

_CASE_FOLDED = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_PATTERN, LLAMA3_PATTERN = _CASE_FOLDED % r"\p{N}", _CASE_FOLDED % r"\p{N}{1,3}"

# With 13 numbers of Unicode 16 and 17, which `Digits` knows and the regular expressions do not.
_NUMBERS = r"\p{N}\x{11DE0}-\x{11DE9}\x{16FF4}-\x{16FF6}"
SMOLLM_PATTERN = (
    rf"'s|'t|'re|'ve|'m|'ll|'d| ?\p{{L}}+|[{_NUMBERS}]| ?[^\s\p{{L}}{_NUMBERS}]+|\s+(?![^\s{_NUMBERS}])|\s+"
)
"""The splits of `Digits` and of `ByteLevel` after it in one pattern: each digit alone, then GPT-2's."""

TEKKEN_PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""That of Mistral Nemo and later."""

# With these patterns both regular expression engines split alike, as tested on every character of Unicode.
_COMPARED = (SPLIT_PATTERN, LLAMA3_SPLIT_PATTERN, GPT2_PATTERN, QWEN2_PATTERN, LLAMA3_PATTERN, TEKKEN_PATTERN)

SPLITS = {
    SPLIT_PATTERN: (1, False),
    LLAMA3_SPLIT_PATTERN: (3, False),
    QWEN2_PATTERN: (1, True),
    LLAMA3_PATTERN: (3, True),
}
"""Of the patterns that the kernel knows: digits of a number at most, and whether 's has the long s too."""

_KERNEL_FROM = 4_000_000  # bytes of text: loading the kernel takes as long as tiktoken for 10 MB

# tiktoken's regular expressions panic where `\s+(?!\S)` backtracks a million times.
_LONG_BLANK_CHARACTERS = 500_000
_LONG_BLANK = re.compile(rf"\s{{{_LONG_BLANK_CHARACTERS}}}")


class Encoder:
    """Encodes plain text: the text of a special token (`</s>`) in it is ordinary text, other added tokens are tokens.

    tiktoken joins the neighbors whose union has the smallest id, `tokenizers` the pair with the earliest merge. They
    agree where ids follow the merges and a token's own text merges into that token. If this cannot be shown, and for a
    text with an added token, `tokenizers` encodes. `fast` reports the engine. NFC of the tokenizer is applied first.
    `encode_all` has a kernel of its own (`homegrown.tokenizer.compiled_bpe`) for the patterns that it knows.
    """

    def __init__(self, tokenizer: Tokenizer):
        """Take a byte-level BPE from `homegrown.tokenizer.train` or `homegrown.tokenizer.existing`."""
        description = json.loads(tokenizer.to_str())
        self._exact = Tokenizer.from_str(tokenizer.to_str())
        added = [re.escape(token["content"]) for token in description["added_tokens"] if not token["special"]]
        self._added = re.compile("|".join(added)) if added else None
        self._exact.encode_special_tokens = True
        pattern, ranks = split_pattern(description["pre_tokenizer"]), _ranks(description)
        self._tiktoken: tiktoken.Encoding | None = None
        self._normalizer = tokenizer.normalizer
        form = (description["normalizer"] or {"type": "none"})["type"]
        if pattern and ranks and form in ("none", "NFC") and _merges_by_rank(description["model"], ranks):
            self._tiktoken = tiktoken.Encoding(
                "homegrown",
                pat_str=pattern,
                mergeable_ranks={to_bytes(token): rank for token, rank in ranks.items()},
                special_tokens={},
            )
        # For the kernel, which is made when it is first needed.
        self._pattern, self._model, self._ranks = pattern, description["model"], ranks
        self._kernel: CompiledBpe | None = None
        self._seen = 0  # bytes of texts for `encode_all`

    @property
    def fast(self) -> bool:
        """Whether tiktoken encodes."""
        return self._tiktoken is not None

    def encode(self, text: str) -> npt.NDArray[np.uint32]:
        """Return the token ids of `text` (valid Unicode, no lone surrogates) as uint32 [tokens].

        Raises:
            UserError: the split pattern of a given tokenizer takes too long on this text.
        """
        if (
            self._tiktoken is None
            or (len(text) >= _LONG_BLANK_CHARACTERS and _LONG_BLANK.search(text))
            or (self._added and self._added.search(text))
        ):
            return np.array(self._encode_exactly(text), dtype=np.uint32)
        if self._normalizer is not None and not text.isascii():
            text = self._normalizer.normalize_str(text)
        # A list first: tiktoken's own conversion to an array checks for special tokens and takes 1.7 times as long.
        return np.array(self._tiktoken.encode_ordinary(text), dtype=np.uint32)

    def encode_all(self, texts: pa.StringArray) -> list[npt.NDArray[np.uint32]]:
        """Return the token ids of each of many texts, none of them null."""
        self._seen += texts.nbytes
        if self._tiktoken is None or self._added or self._pattern not in SPLITS or self._seen < _KERNEL_FROM:
            return [self.encode(text) for text in texts.to_pylist()]
        self._kernel = self._kernel or self._compiled()
        found = self._kernel.encode(texts)
        return [self.encode(texts[number].as_py()) if own is None else own for number, own in enumerate(found)]

    def _compiled(self) -> "CompiledBpe":
        from homegrown.tokenizer.compiled_bpe import CompiledBpe  # numba is slow to import

        numbers = self._model["vocab"]
        merges = [(numbers[left], numbers[right], numbers[left + right]) for left, right in self._model["merges"]]
        of_bytes = [numbers[character] for character in sorted(BYTES, key=lambda character: BYTES[character])]
        tokens = {to_bytes(token): number for token, number in self._ranks.items()}
        return CompiledBpe(SPLITS[self._pattern or ""], self._normalizer is not None, of_bytes, merges, tokens)

    def _encode_exactly(self, text: str) -> list[int]:
        try:
            ids: list[int] = self._exact.encode(text, add_special_tokens=False).ids
        except BaseException as error:
            # A panic in Rust is not an Exception, and its type cannot be imported.
            if type(error).__name__ != "PanicException":
                raise
            raise UserError(
                f"The split pattern of the tokenizer failed ({error}) on a text that starts with {text[:40]!r}; set "
                "tokenizer.path to another tokenizer, or to null to train one."
            ) from None
        return ids


def to_bytes(token: str) -> bytes:
    """Return the bytes of a token of a byte-level vocabulary, which has one printable character for each.

    Raises KeyError for any other character.
    """
    return bytes(BYTES[character] for character in token)


def _byte_characters() -> dict[str, int]:
    """Return GPT-2's alphabet: printable Latin-1 maps to itself, U+0100 onward to the other bytes in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + number): byte for number, byte in enumerate(others)}


BYTES = _byte_characters()


def split_pattern(pre_tokenizer: dict[str, Any] | None) -> str | None:
    """Return the regular expression that splits text, or None if it is not one of `_COMPARED`."""
    match pre_tokenizer:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
            return GPT2_PATTERN
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
            ],
        }:
            return SMOLLM_PATTERN
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
    """Return the ordinary tokens with their ids; empty if the model is not a byte-level BPE."""
    model, special = description["model"], {token["content"] for token in description["added_tokens"]}
    if model["type"] != "BPE" or not BYTES.keys() <= model["vocab"].keys():
        return {}
    ranks: dict[str, int] = {token: rank for token, rank in model["vocab"].items() if token not in special}
    return ranks if all(BYTES.keys() >= set(token) for token in ranks) else {}


def _merges_by_rank(model: dict[str, Any], ranks: dict[str, int]) -> bool:
    """Return whether joining the neighbors with the smallest union, as tiktoken does, equals applying the merges.

    Ids must not decrease along the merges. Then both take the same steps until tiktoken joins two neighbors that no
    merge joins. Such a step lies within the text of one token, and would leave these two if it were all the text. So it
    cannot occur in a token whose own text merges into it, nor in one that all its splits can be merged to.
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
        # tiktoken encodes a piece of text that equals a token as that token.
        if not (model["ignore_merges"] and joinable):
            return False
    return True
