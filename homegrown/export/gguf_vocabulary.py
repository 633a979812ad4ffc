"""A tokenizer as GGUF metadata: tokens, merges, pre-tokenizer, stop tokens, chat template."""

import json
from dataclasses import dataclass
from pathlib import Path

from gguf import GGUFWriter, TokenType

from homegrown.tokenizer import chat
from homegrown.tokenizer.encoding import (
    GPT2_PATTERN,
    LLAMA3_PATTERN,
    QWEN2_PATTERN,
    SPLIT_PATTERN,
    split_pattern,
)
from homegrown.tokenizer.loading import TOKENIZER_FILE, load
from homegrown.tokenizer.special import special_ids
from homegrown.tokenizer.system import load_system
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
}


class Vocabulary:
    """The tokenizer of a model's folder, for which llama.cpp gives the same ids."""

    def __init__(self, folder: Path):
        """Read the tokenizer.

        Raises:
            UserError: a file is missing or damaged, or llama.cpp has no pre-tokenizer that splits text the same way.
        """
        self._tokenizer, self._system = load(folder), load_system(folder)
        description = json.loads(self._tokenizer.to_str())
        self._merges: list[list[str]] = description["model"]["merges"]
        built_in = _SPLITS.get(split_pattern(description["pre_tokenizer"]) or "")
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
        special, marks = tokenizer.get_added_tokens_decoder(), special_ids(tokenizer)
        kinds = [TokenType.CONTROL if token in special else TokenType.NORMAL for token in range(len(self))]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self._split)
        writer.add_token_list([str(tokenizer.id_to_token(token)) for token in range(len(self))])
        writer.add_token_types(kinds)
        writer.add_token_merges([f"{first} {second}" for first, second in self._merges])
        writer.add_bos_token_id(marks.bos)
        writer.add_eos_token_id(marks.eos)
        writer.add_eot_token_id(marks.message_end)
        if (padding := tokenizer.token_to_id("<pad>")) is not None:
            writer.add_pad_token_id(padding)
        writer.add_add_bos_token(True)
        writer.add_add_eos_token(False)
        writer.add_chat_template(chat.template(tokenizer, self._system))
