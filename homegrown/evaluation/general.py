"""A fixed general text: what a model predicts worse than its base there, it forgot.

36 passages of about 1,000 bytes: 24 kinds of everyday English prose, written for this project under its license, and 12
parts of novels and poems in the public domain. A passage that is in the training data is left out.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from homegrown.evaluation.costs import Costs
from homegrown.evaluation.memorization import longest_matches
from homegrown.evaluation.perplexity import ShortTexts
from homegrown.model.transformer import Transformer
from homegrown.tokenizer.encoding import Encoder
from homegrown.tokenizer.special import special_ids
from homegrown.util.errors import UserError

FILE = Path(__file__).with_name("general.jsonl")
DIGEST = "71add121e492052a7655234a41e2bc05c1594e77ee5906685f609fffe35321b1"
"""SHA-256 of the file; with it the text enters the key of an evaluation."""

_KNOWN = 0.5
"""Share of a passage's tokens that are one run in a training document if the passage is part of the training data."""


@dataclass(frozen=True)
class Passage:
    """A passage, and what it is: `news report`, `poem, Walt Whitman`."""

    kind: str
    text: str


@cache
def passages() -> tuple[Passage, ...]:
    """Return all passages; raise UserError if the file is missing or damaged."""
    content = FILE.read_bytes() if FILE.is_file() else b""
    if hashlib.sha256(content).hexdigest() != DIGEST:
        raise UserError(f"{FILE} is missing or damaged; install Homegrown again.")
    return tuple(Passage(**json.loads(line)) for line in content.decode().splitlines())


@dataclass(frozen=True)
class GeneralText:
    """The passages as tokens, each after the token that starts a document; `left_out` of them are training data."""

    kinds: list[str]
    left_out: int
    _texts: ShortTexts

    def costs(self, model: Transformer) -> Costs:
        """Return the costs of a model's predictions, by passage."""
        return self._texts.costs(model)


def prepare_general(tokenizer: Tokenizer, packed: Path, context: int, stride: int) -> GeneralText | None:
    """Return the general text for models of this context; None if all of it is in the training data.

    `packed` is the folder of the stage `pack`.
    """
    encoder, start = Encoder(tokenizer), special_ids(tokenizer).start
    encoded = [encoder.encode(passage.text).astype(np.int64) for passage in passages()]
    matches = longest_matches(packed, [tokens.tolist() for tokens in encoded])
    chosen = [
        (passage.kind, np.concatenate([np.array([start]), tokens]))
        for passage, tokens, match in zip(passages(), encoded, matches, strict=True)
        if match.length < _KNOWN * len(tokens)
    ]
    if not chosen:
        return None
    kinds, parts = [kind for kind, _ in chosen], [tokens for _, tokens in chosen]
    return GeneralText(kinds, len(encoded) - len(chosen), ShortTexts.of(tokenizer, parts, context, stride))
