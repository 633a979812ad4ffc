"""Text to token ids with tiktoken's engine, which gives the ids of `tokenizers` several times as fast."""

import json
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import tiktoken
from tokenizers import Tokenizer

# tiktoken's regular expressions give up (with a panic) where `\s+(?!\S)` has to step back a million times.
_LONG_BLANK_CHARACTERS = 500_000
_LONG_BLANK = re.compile(rf"\s{{{_LONG_BLANK_CHARACTERS}}}")


class Encoder:
    """Encodes plain text: the text of a special token (`</s>`) in it is text like any other.

    tiktoken merges the pair whose result has the smallest id, `tokenizers` the pair whose merge was learned first;
    they agree where every merge makes a token of its own and ids follow the merges, which is checked.
    """

    def __init__(self, tokenizer: Tokenizer):
        """Take over the merges of a byte-level BPE made by `tokens.tokenizer`.

        Raises:
            ValueError: the tokenizer is of another kind, so that the ids could differ.
        """
        description = json.loads(tokenizer.to_str())
        if not _is_plain_byte_level_bpe(description):
            raise ValueError("not a byte-level BPE tokenizer whose token ids follow its merges")
        special = {token["content"] for token in description["added_tokens"]}
        ranks = {to_bytes(token): rank for token, rank in description["model"]["vocab"].items() if token not in special}
        pattern = description["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        self._fast = tiktoken.Encoding("homegrown", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        self._exact = Tokenizer.from_str(tokenizer.to_str())
        self._exact.encode_special_tokens = True

    def encode(self, text: str) -> npt.NDArray[np.uint32]:
        """Return the token ids of `text` (valid Unicode, no lone surrogates) as uint32 [tokens]."""
        if len(text) >= _LONG_BLANK_CHARACTERS and _LONG_BLANK.search(text):
            return np.array(self._exact.encode(text, add_special_tokens=False).ids, dtype=np.uint32)
        return self._fast.encode_to_numpy(text, disallowed_special=())


def to_bytes(token: str) -> bytes:
    """Return the bytes that a token of a byte-level vocabulary writes as one printable character each."""
    return bytes(_BYTES[character] for character in token)


def _byte_characters() -> dict[str, int]:
    """Return GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes for U+0100 onward, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + number): byte for number, byte in enumerate(others)}


_BYTES = _byte_characters()


def _is_plain_byte_level_bpe(description: dict[str, Any]) -> bool:
    model, steps = description["model"], (description["pre_tokenizer"] or {}).get("pretokenizers", [])
    if (
        model["type"] != "BPE"
        or description["normalizer"]
        or [step["type"] for step in steps] != ["Split", "ByteLevel"]
    ):
        return False
    if "Regex" not in steps[0]["pattern"] or steps[0]["behavior"] != "Isolated" or steps[0]["invert"]:
        return False
    if steps[1]["add_prefix_space"] or steps[1]["use_regex"] or model["ignore_merges"]:
        return False
    merged = [model["vocab"].get(first + second) for first, second in model["merges"]]
    first_merge = len(model["vocab"]) - len(merged)
    return merged == list(range(first_merge, len(model["vocab"])))
