"""A conversation with a model, kept within its context."""

from collections.abc import Generator, Iterator, Sequence

from tokenizers import Tokenizer

from homegrown.inference.engine import Engine, Request
from homegrown.inference.sampling import Sampling
from homegrown.inference.streaming import Piece, stream
from homegrown.model.transformer import Transformer
from homegrown.tokenizer.chat import Message, encode, stop_ids
from homegrown.tokenizer.detokenizer import vocabulary_bytes
from homegrown.util.errors import UserError
from homegrown.util.seeds import derive


class Answer:
    """An answer as it is written: iterate over its text.

    `forgotten` counts the messages that had to leave the conversation for it, `tokens` those written so far; `cut` says
    that it ended because there was no more room.
    """

    def __init__(self, pieces: Generator[Piece], messages: list[Message], forgotten: int):
        self.forgotten, self.tokens, self.cut = forgotten, 0, False
        self._pieces, self._messages, self._text = pieces, messages, ""

    def __iter__(self) -> Iterator[str]:
        for piece in self._pieces:
            self.tokens += 1
            self.cut = piece.finish == "length"
            self._text += piece.text
            yield piece.text
        self.stop()

    def stop(self) -> None:
        """End the answer here; what there is of it stays in the conversation."""
        self._pieces.close()
        self._messages.append(Message("assistant", self._text))


class Conversation:
    """Messages of a user and answers of a model, after what the model is told as its `system` message."""

    _LEAST_ROOM = 4
    """Old messages leave when an answer would have less than this part of the context."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        sampling: Sampling,
        *,
        system: str | None,
        max_new_tokens: int,
        seed: int,
    ):
        """Begin a conversation.

        Raises:
            UserError: the system message leaves no room in the context.
        """
        self.context = model.config.context
        self._engine, self._tokenizer, self._sampling = Engine(model, rows=1), tokenizer, sampling
        self._table, self._stop_ids = vocabulary_bytes(tokenizer), stop_ids(tokenizer)
        self._most, self._seed = max_new_tokens, seed
        self._system = [] if system is None else [Message("system", system)]
        self._messages: list[Message] = []
        if not self._fits(self._system):
            raise UserError(f"The system message leaves no room in the context of {self.context} tokens; shorten it.")

    def reset(self) -> None:
        """Forget all messages but the system's."""
        self._messages = []

    def say(self, text: str) -> Answer:
        """Add a message of the user; return the answer, to be iterated over or stopped before the next message.

        The oldest messages leave, two by two, where the conversation would not fit the context.

        Raises:
            UserError: the message does not fit even alone; the conversation stays as it was.
        """
        kept = [*self._messages, Message("user", text)]
        while len(kept) > 2 and not self._fits([*self._system, *kept]):
            kept = kept[2:]
        if not self._fits([*self._system, *kept]):
            raise UserError(
                f"The message is too long for the model's context of {self.context} tokens with room for an answer; "
                "shorten it."
            )
        forgotten = len(self._messages) + 1 - len(kept)
        self._messages = kept
        prompt = encode(self._tokenizer, [*self._system, *kept], reply=True)
        request = Request(
            prompt=prompt,
            max_new_tokens=self._most,
            sampling=self._sampling,
            seed=derive(self._seed, "chat", *prompt),
            stop_ids=self._stop_ids,
        )
        return Answer(stream(self._engine, request, self._table), self._messages, forgotten)

    def _fits(self, messages: Sequence[Message]) -> bool:
        room = self.context - len(encode(self._tokenizer, messages, reply=True))
        return room >= min(self._most, max(1, self.context // self._LEAST_ROOM))
