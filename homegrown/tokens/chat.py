"""Conversations as tokens: the chat template, and what ends an answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tokenizers import Tokenizer

from homegrown.tokens.special import special_ids


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


def template(tokenizer: Tokenizer) -> str:
    """Return the Jinja template that exports carry: ChatML after the mark that starts every document.

    Runtimes give it `messages`, each with `role` and `content`, and `add_generation_prompt`.
    """
    marks = special_ids(tokenizer)
    bos, start, end = (tokenizer.id_to_token(mark) for mark in (marks.bos, marks.message_start, marks.message_end))
    return (
        f"{{{{ '{bos}' }}}}{{% for message in messages %}}"
        f"{{{{ '{start}' + message['role'] + '\\n' + message['content'] + '{end}' + '\\n' }}}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ '{start}' + 'assistant\\n' }}}}{{% endif %}}"
    )


def encode(tokenizer: Tokenizer, messages: Sequence[Message], *, reply: bool) -> list[int]:
    """Return the ids of the template's text, with the start of an answer after it if `reply`.

    The text of a special token inside a message stays text, so that no message can pretend to be another. `tokenizer`
    is one of `homegrown.tokens.tokenizer.load`.
    """
    marks = special_ids(tokenizer)

    def text(content: str) -> list[int]:
        ids: list[int] = tokenizer.encode(content, add_special_tokens=False).ids
        return ids

    ids = [marks.bos]
    for message in messages:
        ids += [marks.message_start, *text(f"{message.role}\n{message.content}"), marks.message_end, *text("\n")]
    if reply:
        ids += [marks.message_start, *text("assistant\n")]
    return ids


def stop_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Return the tokens that end an answer or a document: every export names them, or output would never end."""
    marks = special_ids(tokenizer)
    return frozenset({marks.eos, marks.message_end})
