"""A tokenizer that was trained elsewhere, taken over: GPT-2's, Llama 3's, Qwen's and others of their kind."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders

from homegrown.tokenizer.encoding import BYTES
from homegrown.tokenizer.special import add_missing
from homegrown.util.errors import UserError

_FILE = "tokenizer.json"

# Pre-tokenizers that only split. `ByteLevel` then writes bytes as characters, the form of every token.
_SPLITTING = {"Split", "Digits", "Punctuation", "ByteLevel"}

_PROBE = "".join(map(chr, [*range(0x250), *range(0x400, 0x420), *range(0x2000, 0x2030), 0x301, 0x4E00, 0x1F642]))


def tokenizer_file(path: Path) -> Path:
    """Return the file that the setting `tokenizer.path` means: the file itself, or `tokenizer.json` in the folder.

    Raises:
        UserError: there is none.
    """
    file = path / _FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"tokenizer.path: there is no file {file}; name a tokenizer.json or a folder with one.")
    return file


def take(path: Path) -> Tokenizer:
    """Return the tokenizer of `path` as packing and training need it: same ids, special tokens added that are missing.

    What it does beside encoding text is taken off: marks put around a text (packing puts them), truncation, padding,
    and NFC, which all text has since `ingest`. The text of an added token is encoded like any other text.

    Raises:
        UserError: it is no byte-level BPE that gives every text back as it was.
    """
    file = tokenizer_file(path)
    try:
        original = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises no narrower class
        raise UserError(f"tokenizer.path: {file} is no tokenizer ({error}); name another.") from error
    description = json.loads(original.to_str())
    if reason := _unusable(description):
        raise UserError(
            f"tokenizer.path: {file} {reason}; name a byte-level BPE, such as GPT-2's, Llama 3's or Qwen's."
        )
    plain = {"special": True, "normalized": False, "single_word": False, "lstrip": False, "rstrip": False}
    changes = {
        "normalizer": None,
        "post_processor": None,
        "truncation": None,
        "padding": None,
        "added_tokens": [token | plain for token in description["added_tokens"]],
    }
    tokenizer = Tokenizer.from_str(json.dumps(description | changes))
    tokenizer.decoder = decoders.ByteLevel()
    add_missing(tokenizer)
    tokenizer.encode_special_tokens = True
    if tokenizer.decode(tokenizer.encode(_PROBE).ids) != _PROBE:
        raise UserError(f"tokenizer.path: {file} does not give a text back as it was; name another tokenizer.")
    return tokenizer


def _unusable(description: dict[str, Any]) -> str | None:
    """Return what makes a tokenizer no lossless byte-level BPE, or None."""
    model, added = description["model"], {token["content"]: token["id"] for token in description["added_tokens"]}
    if model["type"] != "BPE":
        return f"is a {model['type']} tokenizer"
    if not BYTES.keys() <= model["vocab"].keys():
        return "lacks tokens for some bytes"
    if model["dropout"] or model["continuing_subword_prefix"] or model["end_of_word_suffix"]:
        return "has BPE dropout or marks the ends of words"
    foreign = [token for token in model["vocab"] if token not in added and not BYTES.keys() >= set(token)]
    if foreign:
        return f"has a token {foreign[0]!r} that is not written as bytes"
    ids = sorted({*model["vocab"].values(), *added.values()})
    if ids != list(range(len(ids))):
        return "has gaps between its token ids"
    normalizer = description["normalizer"]
    if normalizer and normalizer["type"] != "NFC":
        return f"changes the text before it encodes ({normalizer['type']})"
    step = description["pre_tokenizer"] or {"type": "none"}
    steps = step["pretokenizers"] if step["type"] == "Sequence" else [step]
    if steps[-1]["type"] != "ByteLevel":
        return "is not byte-level"
    for step in steps:
        if step["type"] not in _SPLITTING or step.get("behavior") == "Removed" or step.get("add_prefix_space"):
            return f"adds to the text or takes from it before it encodes ({step['type']})"
    return None
