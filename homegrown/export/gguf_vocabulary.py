"""A tokenizer as GGUF metadata, written and read: tokens, merges, pre-tokenizer, stop tokens, chat template."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFWriter, TokenType
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from homegrown.export.imported import Unsupported, Usage
from homegrown.tokenizer.chat import load_chat
from homegrown.tokenizer.encoding import (
    BYTES,
    GPT2_PATTERN,
    LLAMA3_PATTERN,
    LLAMA3_SPLIT_PATTERN,
    QWEN2_PATTERN,
    SMOLLM_PATTERN,
    SPLIT_PATTERN,
    TEKKEN_PATTERN,
    split_pattern,
)
from homegrown.tokenizer.loading import TOKENIZER_FILE
from homegrown.tokenizer.special import special_ids
from homegrown.util.errors import UserError


@dataclass(frozen=True)
class _BuiltIn:
    """A pre-tokenizer of llama.cpp: its name, and whether a piece that is a token skips the merges."""

    name: str
    ignore_merges: bool


# llama.cpp spells out the case-folded patterns. Only the long s (U+017F) after an apostrophe, which folds to s, is
# split differently from Qwen's and Llama 3's tokenizers.
_SPLITS = {
    SPLIT_PATTERN: _BuiltIn("qwen2", False),
    QWEN2_PATTERN: _BuiltIn("qwen2", False),
    GPT2_PATTERN: _BuiltIn("gpt-2", False),
    LLAMA3_PATTERN: _BuiltIn("llama-bpe", True),
    LLAMA3_SPLIT_PATTERN: _BuiltIn("llama-bpe", True),
    TEKKEN_PATTERN: _BuiltIn("tekken", True),
    SMOLLM_PATTERN: _BuiltIn("smollm", False),
}


class Vocabulary:
    """The tokenizer of a model's folder, for which llama.cpp gives the same ids."""

    def __init__(self, folder: Path):
        """Read the tokenizer.

        Raises:
            UserError: a file is missing or damaged, or llama.cpp has no pre-tokenizer that splits text the same way.
        """
        self._chat = load_chat(folder)
        self._tokenizer = self._chat.tokenizer
        description = json.loads(self._tokenizer.to_str())
        self._merges: list[list[str]] = description["model"]["merges"]
        split, apart = description["pre_tokenizer"], missing_bytes(description["model"]["vocab"])
        if apart is not None and split["type"] == "Sequence":
            steps = [step for step in split["pretokenizers"] if step.get("pattern") != {"Regex": apart}]
            split = split | {"pretokenizers": steps}
        built_in = _SPLITS.get(split_pattern(split) or "")
        if built_in is None or built_in.ignore_merges != description["model"]["ignore_merges"]:
            raise UserError(
                f"{folder / TOKENIZER_FILE} splits text in a way that llama.cpp does not support, so a GGUF file would "
                "give wrong tokens; export to hf or onnx, or train with another tokenizer."
            )
        self._split = built_in.name

    def __len__(self) -> int:
        """Return the number of tokens."""
        return int(self._tokenizer.get_vocab_size())

    def write(self, writer: GGUFWriter) -> None:
        """Add the metadata.

        Special tokens are control tokens: text in a prompt does not become one unless a runtime parses special tokens.
        Documents start with `bos`, as in training. Generation stops at `eos` (document) and at `eot` (message).
        """
        tokenizer = self._tokenizer
        added, marks = tokenizer.get_added_tokens_decoder(), special_ids(tokenizer)
        kinds = [TokenType.NORMAL] * len(self)
        for number, token in added.items():
            kinds[number] = TokenType.CONTROL if token.special else TokenType.USER_DEFINED
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self._split)
        writer.add_token_list([str(tokenizer.id_to_token(token)) for token in range(len(self))])
        writer.add_token_types(kinds)
        writer.add_token_merges([f"{first} {second}" for first, second in self._merges])
        if marks.bos is not None:
            writer.add_bos_token_id(marks.bos)
        writer.add_eos_token_id(marks.eos)
        if self._chat.turn_end is not None:
            writer.add_eot_token_id(self._chat.turn_end)
        if (padding := tokenizer.token_to_id(self._chat.files.tokens.get("pad_token", "<pad>"))) is not None:
            writer.add_pad_token_id(padding)
        writer.add_add_bos_token(marks.bos is not None)
        writer.add_add_eos_token(False)
        if self._chat.supported:
            writer.add_chat_template(self._chat.export_template)


_PRE = {
    "qwen2": (SPLIT_PATTERN, False),
    "deepseek-r1-qwen": (SPLIT_PATTERN, False),
    "gpt-2": (GPT2_PATTERN, False),
    "llama-bpe": (LLAMA3_SPLIT_PATTERN, True),
    "llama3": (LLAMA3_SPLIT_PATTERN, True),
    "tekken": (TEKKEN_PATTERN, True),
    "smollm": (SMOLLM_PATTERN, False),
}
"""llama.cpp's names of pre-tokenizers, each with its pattern and whether a piece that is a token skips the merges."""

_STARTING = {"llama-bpe", "llama3", "tekken"}
"""Pre-tokenizers with which llama.cpp starts each text with `bos` unless the file says otherwise."""

_ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "</s>", "<|end|>")
"""Control tokens that end a generation in llama.cpp by their text alone."""


def read_tokenizer(reader: GGUFReader) -> Tokenizer:
    """Return the tokenizer of a GGUF file, with llama.cpp's ids for every text.

    Control tokens are special: the text of one is not parsed. User-defined tokens are always parsed. Unused tokens at
    the end are dropped.

    Raises:
        Unsupported: the vocabulary is not a byte-level BPE, or its pre-tokenizer is not one of `_PRE`.
    """
    kind = metadata(reader, "tokenizer.ggml.model")
    if kind != "gpt2":
        raise Unsupported(f"its tokenizer is of the kind {kind!r}, not a byte-level BPE (gpt2)")
    pre = metadata(reader, "tokenizer.ggml.pre", "default")
    if pre not in _PRE:
        raise Unsupported(f"its pre-tokenizer is {pre!r}; supported are {', '.join(_PRE)}")
    pattern, ignore_merges = _PRE[pre]
    tokens: list[str] = metadata(reader, "tokenizer.ggml.tokens")
    kinds: list[int] = metadata(reader, "tokenizer.ggml.token_type", [TokenType.NORMAL] * len(tokens))
    while kinds and kinds[-1] == TokenType.UNUSED:
        kinds.pop()
    vocabulary = {token: number for number, token in enumerate(tokens[: len(kinds)])}
    if len(vocabulary) < len(kinds):
        raise Unsupported("its tokenizer has the same token twice")
    merges = [tuple(merge.split(" ", 1)) for merge in metadata(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=ignore_merges))
    split: list[Any] = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if pattern != SMOLLM_PATTERN:
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        split = [pre_tokenizers.Split(Regex(pattern), behavior="isolated"), byte_level]
    if (apart := missing_bytes(vocabulary)) is not None:
        split.append(pre_tokenizers.Split(Regex(apart), behavior="isolated"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.decoder = decoders.ByteLevel()
    added = {number: kind for number, kind in enumerate(kinds) if kind in _ADDED}
    tokenizer.add_tokens(
        [
            AddedToken(tokens[number], special=kind != TokenType.USER_DEFINED, normalized=False)
            for number, kind in added.items()
        ]
    )
    tokenizer.encode_special_tokens = True
    return tokenizer


def missing_bytes(vocabulary: Mapping[str, int]) -> str | None:
    """Return the pattern of the bytes without a token, such as 21 of SmolLM2's, or None.

    llama.cpp drops them after merging; split off, they are dropped here without a merge across them.
    """
    missing = [f"\\x{{{ord(character):X}}}" for character in sorted(BYTES.keys() - vocabulary.keys())]
    return f"[{''.join(missing)}]" if missing else None


_ADDED = (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED)


def read_usage(reader: GGUFReader) -> Usage:
    """Return how the model of a GGUF file uses its tokenizer, with llama.cpp's stop tokens."""
    ids = {role: metadata(reader, f"tokenizer.ggml.{role}_token_id", None) for role in ("bos", "eos", "eot", "eom")}
    pad = metadata(reader, "tokenizer.ggml.padding_token_id", None)
    tokens: list[str] = metadata(reader, "tokenizer.ggml.tokens")
    kinds: list[int] = metadata(reader, "tokenizer.ggml.token_type", [])
    known = [number for number, kind in enumerate(kinds) if kind == TokenType.CONTROL and tokens[number] in _ENDS]
    stop = dict.fromkeys(end for end in (ids["eos"], ids["eot"], ids["eom"], *known) if end is not None)
    starts = metadata(reader, "tokenizer.ggml.pre", "default") in _STARTING
    return Usage(
        template=metadata(reader, "tokenizer.chat_template", None),
        bos=ids["bos"],
        stop=tuple(stop),
        pad=pad,
        add_bos=bool(metadata(reader, "tokenizer.ggml.add_bos_token", starts)),
    )


_REQUIRED = object()


def metadata(reader: GGUFReader, key: str, default: Any = _REQUIRED) -> Any:
    """Return a value of a file's metadata.

    Raises:
        Unsupported: the file lacks the key, and there is no default.
    """
    field = reader.get_field(key)
    if field is None:
        if default is _REQUIRED:
            raise Unsupported(f"it lacks {key}")
        return default
    value = field.contents()
    # The shortest number of this float32: 1e-06, not 9.999999974752427e-07.
    return float(str(np.float32(value))) if isinstance(value, float) else value
