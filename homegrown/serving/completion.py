"""What is asked of a model that is served, and what comes back, whatever engine writes it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from homegrown.inference.engine import Finish
from homegrown.inference.sampling import GREEDY, Sampling
from homegrown.tokenizer.chat import Message
from homegrown.util.errors import UserError

Reason = Literal["unknown_model", "invalid", "too_long", "busy", "loading", "failed", "stopping"]


class Refused(UserError):
    """A request that is not served, and why; `setting` names what in it is at fault, where one thing is."""

    def __init__(self, sentence: str, reason: Reason, setting: str | None = None):
        super().__init__(sentence)
        self.reason, self.setting = reason, setting


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What to write: after a text, after tokens as they are, or as the answer to messages.

    Raises Refused if a text holds half of a character (a surrogate, as where a program cut an emoji): it has no bytes.
    """

    prompt: str | Sequence[int] | Sequence[Message]
    """Text gets the mark that starts a document before it; tokens get nothing."""
    max_tokens: int | None = None
    """Most tokens to write; None: until the context is full."""
    sampling: Sampling = GREEDY
    stop: tuple[str, ...] = ()
    """Strings that end the text and are no part of it."""
    seed: int | None = None
    """The same seed brings the same text again; None: one that nobody knows."""
    logprobs: int | None = None
    """Ask for each token with its log-probability, and those of so many likeliest beside it."""

    def __post_init__(self) -> None:
        if isinstance(self.prompt, str):
            texts = [self.prompt]
        else:
            texts = [part.content for part in self.prompt if isinstance(part, Message)]
        try:
            "".join([*texts, *self.stop]).encode()
        except UnicodeEncodeError as error:
            raise Refused("The text holds half of a character; send whole ones.", "invalid") from error


@dataclass(frozen=True)
class Token:
    """A token's number, the bytes it stands for, and the natural logarithm of its probability."""

    id: int
    data: bytes
    logprob: float


@dataclass(frozen=True)
class Written:
    """A token that was written, and the likeliest ones in its place, likeliest first."""

    token: Token
    likeliest: tuple[Token, ...]


@dataclass(frozen=True)
class Delta:
    """What one step added.

    `text` is what became certain with it, often nothing. `tokens` holds what was written when log-probabilities were
    asked for. `count` is the number of tokens written so far, the one that ended it among them. `finish` is set on the
    last one. `seconds` is how long the model has worked on it so far, without what it waited for its turn.
    """

    text: str
    tokens: tuple[Written, ...]
    count: int
    finish: Finish | None
    seconds: float
