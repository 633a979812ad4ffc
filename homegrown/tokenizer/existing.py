"""Importing a published tokenizer: byte-level BPE such as GPT-2's, Llama 3's and Qwen's."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, processors

from homegrown.tokenizer.encoding import BYTES
from homegrown.tokenizer.special import add_missing, document_end, token_text
from homegrown.util.errors import UserError

_FILE = "tokenizer.json"

# Pre-tokenizers that only split. `ByteLevel` then maps bytes to characters, the form of every token.
_SPLITTING = {"Split", "Digits", "Punctuation", "ByteLevel"}

# Without control characters, which some published vocabularies lack, such as SmolLM2's.
_PROBE = "".join(
    map(
        chr,
        [
            *b"\t\n\r",
            *range(0x20, 0x7F),
            *range(0xA0, 0x250),
            *range(0x400, 0x420),
            *range(0x2000, 0x2030),
            0x301,
            0x4E00,
            0x1F642,
        ],
    )
)


def tokenizer_file(path: Path) -> Path:
    """Return the file of the setting `tokenizer.path`: the file itself, or `tokenizer.json` in the folder.

    Raises:
        UserError: it is not found.
    """
    file = path / _FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"tokenizer.path: {file} is not found; name a tokenizer.json or a folder with one.")
    return file


def take(path: Path) -> Tokenizer:
    """Return the tokenizer in `path` as packing and training need it: the same ids, flags and visibility of tokens.

    Post-processor, truncation and padding are removed. The text of a special token is encoded as ordinary text; an
    added token that is not special stays a token.

    Raises:
        UserError: it is not a lossless byte-level BPE.
    """
    file = tokenizer_file(path)
    try:
        original = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises no narrower class
        raise UserError(f"tokenizer.path: {file} is not a tokenizer ({error}); name another.") from error
    description = json.loads(original.to_str())
    if reason := _unusable(description):
        raise UserError(
            f"tokenizer.path: {file} {reason}; name a byte-level BPE, such as GPT-2's, Llama 3's or Qwen's."
        )
    changes = {"post_processor": None, "truncation": None, "padding": None}
    tokenizer = Tokenizer.from_str(json.dumps(description | changes))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.encode_special_tokens = True
    probe = _PROBE if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str(_PROBE)
    if tokenizer.decode(tokenizer.encode(probe).ids) != probe:
        raise UserError(f"tokenizer.path: {file} does not decode a text to the same text; name another tokenizer.")
    return tokenizer


def mark_documents(tokenizer: Tokenizer, start: int | None, end: int | None) -> None:
    """Make a base's tokenizer mark documents: with `start` before one, if not None, and a token after it.

    That token has one of the names of `homegrown.tokenizer.special`, otherwise it is `end`; `</s>` is added if the
    vocabulary has neither.
    """
    if document_end(tokenizer) is None and end is None:
        add_missing(tokenizer, ["eos"])
    last = document_end(tokenizer)
    marks = [mark for mark in (start, end if last is None else last) if mark is not None]
    names = [token_text(tokenizer, mark) for mark in marks]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*names[:-1], "$A", names[-1]], pair=None, special_tokens=[*{*zip(names, marks, strict=True)}]
    )


def completed(tokenizer: Tokenizer) -> Tokenizer:
    """Append the special tokens that a new model needs and a published vocabulary lacks, such as a start token."""
    tokenizer.post_processor = None  # special tokens by their names
    add_missing(tokenizer)
    return tokenizer


def _unusable(description: dict[str, Any]) -> str | None:
    """Return why a tokenizer is not a lossless byte-level BPE, or None."""
    model, added = description["model"], {token["content"]: token["id"] for token in description["added_tokens"]}
    if model["type"] != "BPE":
        return f"is a {model['type']} tokenizer"
    if model["dropout"] or model["continuing_subword_prefix"] or model["end_of_word_suffix"]:
        return "has BPE dropout or marks word ends"
    foreign = [token for token in model["vocab"] if token not in added and not BYTES.keys() >= set(token)]
    if foreign:
        return f"has a token {foreign[0]!r} that is not byte-level"
    ids = sorted({*model["vocab"].values(), *added.values()})
    if ids != list(range(len(ids))):
        return "has gaps between its token ids"
    normalizer = description["normalizer"]
    if normalizer and normalizer["type"] != "NFC":
        return f"changes the text before encoding ({normalizer['type']})"
    step = description["pre_tokenizer"] or {"type": "none"}
    steps = step["pretokenizers"] if step["type"] == "Sequence" else [step]
    if all(step["type"] != "ByteLevel" for step in steps):
        return "is not byte-level"
    for step in steps:
        if step["type"] not in _SPLITTING or step.get("behavior") == "Removed" or step.get("add_prefix_space"):
            return f"adds to the text or removes from it before encoding ({step['type']})"
    return None
