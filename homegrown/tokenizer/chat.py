"""Conversations as tokens: the chat template and the stop tokens of an answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from homegrown.tokenizer.encoding import Encoder
from homegrown.tokenizer.special import SpecialIds, special_ids


@dataclass(frozen=True)
class Message:
    """A message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


def template(tokenizer: Tokenizer, system: str | None = None) -> str:
    """Return the Jinja template for exports: ChatML after the start-of-document token.

    Runtimes pass it `messages`, each with `role` and `content`, and `add_generation_prompt`. `system` is the default
    system message (see `with_system`); it must not contain the text of a special token.
    """
    marks = special_ids(tokenizer)
    bos, start, end = (tokenizer.id_to_token(mark) for mark in (marks.bos, marks.message_start, marks.message_end))
    default = ""
    if system is not None:
        literal = _literal(f"{start}system\n{system}{end}\n")
        default = f"{{% if not messages or messages[0]['role'] != 'system' %}}{{{{ {literal} }}}}{{% endif %}}"
    return (
        f"{{{{ '{bos}' }}}}{default}{{% for message in messages %}}"
        f"{{{{ '{start}' + message['role'] + '\\n' + message['content'] + '{end}' + '\\n' }}}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ '{start}' + 'assistant\\n' }}}}{{% endif %}}"
    )


def _literal(text: str) -> str:
    """Return a Jinja string literal with escaped line breaks: Jinja would normalize raw ones."""
    for character, escape in (("\\", "\\\\"), ("'", "\\'"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(character, escape)
    return f"'{text}'"


def with_system(messages: Sequence[Message], system: str | None) -> list[Message]:
    """Return the messages after the default system message, unless they start with one of their own."""
    if system is None or (messages and messages[0].role == "system"):
        return list(messages)
    return [Message("system", system), *messages]


def encode(tokenizer: Tokenizer, messages: Sequence[Message], *, reply: bool) -> list[int]:
    """Return the ids of the rendered template; with `reply`, followed by the start of an answer.

    The text of a special token in a message is encoded as text, so that no message can forge another. `tokenizer`
    comes from `homegrown.tokenizer.loading.load`.
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


@dataclass(frozen=True)
class Turn:
    """A message as tokens: ids, uint32 [tokens], and loss mask, bool [tokens].

    The mask covers the text of an answer and its end-of-turn token; of other messages, nothing.
    """

    ids: npt.NDArray[np.uint32]
    written: npt.NDArray[np.bool_]


class TurnEncoder:
    """Encodes the messages of conversations one by one, for training.

    After `start`, they concatenate to the ids of `encode`. Only an answer that starts with a line break may differ: its
    text is encoded separately from the tokens that prompt for it, as a model writes it.
    """

    def __init__(self, encoder: Encoder, marks: SpecialIds):
        """Take the encoder and the special tokens of a tokenizer."""
        self._encode = encoder.encode
        self.start = np.array([marks.bos], dtype=np.uint32)
        """The start of every conversation, uint32 [1]."""
        self._opens = np.array([marks.message_start], dtype=np.uint32)
        self._asks = np.concatenate([self._opens, encoder.encode("assistant\n")])
        self._ends = np.array([marks.message_end], dtype=np.uint32)
        self._between = encoder.encode("\n")

    def __call__(self, message: Message) -> Turn:
        """Return the tokens of a message."""
        if message.role != "assistant":
            text = self._encode(f"{message.role}\n{message.content}")
            ids = np.concatenate([self._opens, text, self._ends, self._between])
            return Turn(ids, np.zeros(len(ids), dtype=np.bool_))
        answer = np.concatenate([self._encode(message.content), self._ends])
        written = np.repeat([False, True, False], [len(self._asks), len(answer), len(self._between)])
        return Turn(np.concatenate([self._asks, answer, self._between]), written)


def stop_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Return the tokens that end an answer or a document; every export lists them, or output would never end."""
    marks = special_ids(tokenizer)
    return frozenset({marks.eos, marks.message_end})
