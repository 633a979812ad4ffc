"""Conversations as tokens: the chat template, and what ends an answer."""

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
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


def template(tokenizer: Tokenizer, system: str | None = None) -> str:
    """Return the Jinja template that exports carry: ChatML after the mark that starts every document.

    Runtimes give it `messages`, each with `role` and `content`, and `add_generation_prompt`. `system` is what
    `with_system` would put before them; the text of no special token may be in it.
    """
    marks = special_ids(tokenizer)
    bos, start, end = (tokenizer.id_to_token(mark) for mark in (marks.bos, marks.message_start, marks.message_end))
    default = ""
    if system is not None:
        told = _literal(f"{start}system\n{system}{end}\n")
        default = f"{{% if not messages or messages[0]['role'] != 'system' %}}{{{{ {told} }}}}{{% endif %}}"
    return (
        f"{{{{ '{bos}' }}}}{default}{{% for message in messages %}}"
        f"{{{{ '{start}' + message['role'] + '\\n' + message['content'] + '{end}' + '\\n' }}}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ '{start}' + 'assistant\\n' }}}}{{% endif %}}"
    )


def _literal(text: str) -> str:
    """Return a string of Jinja, in which line breaks are escaped: bare ones would all become the same."""
    for character, escape in (("\\", "\\\\"), ("'", "\\'"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(character, escape)
    return f"'{text}'"


def with_system(messages: Sequence[Message], system: str | None) -> list[Message]:
    """Return the messages after what the model is told by default, unless they begin with a system message."""
    if system is None or (messages and messages[0].role == "system"):
        return list(messages)
    return [Message("system", system), *messages]


def encode(tokenizer: Tokenizer, messages: Sequence[Message], *, reply: bool) -> list[int]:
    """Return the ids of the template's text, with the start of an answer after it if `reply`.

    The text of a special token inside a message stays text, so that no message can pretend to be another. `tokenizer`
    is one of `homegrown.tokenizer.loading.load`.
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
    """One message as tokens: their ids, uint32 [tokens], and which of them its author wrote, bool [tokens].

    Of an answer these are its text and the mark that ends it, so what a model has to write; of other messages none.
    """

    ids: npt.NDArray[np.uint32]
    written: npt.NDArray[np.bool_]


class TurnEncoder:
    """Encodes the messages of conversations one by one, for training.

    Together, after `start`, they are what `encode` gives. Only an answer that begins with a line break may differ: its
    text is encoded as a model writes it, after the tokens that ask for an answer, and not as one text with them.
    """

    def __init__(self, encoder: Encoder, marks: SpecialIds):
        """Take the engine and the special tokens of one tokenizer."""
        self._encode = encoder.encode
        self.start = np.array([marks.bos], dtype=np.uint32)
        """What every conversation begins with, uint32 [1]."""
        self._opens = np.array([marks.message_start], dtype=np.uint32)
        self._asks = np.concatenate([self._opens, encoder.encode("assistant\n")])
        self._ends = np.array([marks.message_end], dtype=np.uint32)
        self._between = encoder.encode("\n")

    def __call__(self, message: Message) -> Turn:
        """Return the tokens of one message."""
        if message.role != "assistant":
            text = self._encode(f"{message.role}\n{message.content}")
            ids = np.concatenate([self._opens, text, self._ends, self._between])
            return Turn(ids, np.zeros(len(ids), dtype=np.bool_))
        answer = np.concatenate([self._encode(message.content), self._ends])
        written = np.repeat([False, True, False], [len(self._asks), len(answer), len(self._between)])
        return Turn(np.concatenate([self._asks, answer, self._between]), written)


def stop_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Return the tokens that end an answer or a document: every export names them, or output would never end."""
    marks = special_ids(tokenizer)
    return frozenset({marks.eos, marks.message_end})
