"""One text of a model's own, to read."""

import re

from tokenizers import Tokenizer

from homegrown.model.generation import generate
from homegrown.model.transformer import Transformer
from homegrown.seeds import derive
from homegrown.tokens.tokenizer import BOS_ID, EOS_ID

_TOKENS = 200
_ATTEMPTS = 4

_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*(?=\s|$)|[。！？]|\n\n")


def write_sample(model: Transformer, tokenizer: Tokenizer, seed: int) -> str:
    """Return a text that the model writes from nothing, at temperature 0.8 among the 40 likeliest tokens.

    It ends where the model ends the document, or with the last whole sentence or word. A document that the model
    ends at once is passed over, up to three times.
    """
    most = min(_TOKENS, model.config.context - 1)
    attempts = generate(
        model,
        [[BOS_ID]] * _ATTEMPTS,
        max_new_tokens=most,
        temperature=0.8,
        top_k=40,
        seed=derive(seed, "sample"),
        stop_ids={EOS_ID},
    )
    tokens = next((tokens for tokens in attempts if tokens), [])
    text = tokenizer.decode(tokens)
    return (text if len(tokens) < most else cut(text)).strip()


def cut(text: str) -> str:
    """Return `text` up to the last end of a sentence in its second half, else up to its last blank, else all of it."""
    text = text.rstrip("\ufffd")
    ends = [match.end() for match in _SENTENCE_END.finditer(text) if match.end() >= len(text) / 2]
    if ends:
        return text[: ends[-1]]
    head, blank, _ = text.rpartition(" ")
    return head if blank else text
