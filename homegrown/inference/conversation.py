"""A conversation with a model, kept within the context."""

from collections.abc import Generator, Iterator, Sequence

from homegrown.inference.engine import Engine, FinishReason, Request
from homegrown.inference.sampling import Sampling
from homegrown.inference.streaming import Chunk, stream
from homegrown.model.transformer import Transformer
from homegrown.tokenizer.chat import Chat, Message
from homegrown.tokenizer.detokenizer import vocabulary_bytes
from homegrown.util.errors import UserError
from homegrown.util.seeds import derive


class Answer:
    """An answer as it is generated: iterate over its text.

    `dropped` counts the messages that left the conversation to make it fit the context. `completion_tokens` and
    `finish_reason` are those of the answer so far.
    """

    def __init__(self, chunks: Generator[Chunk], messages: list[Message], dropped: int):
        self.dropped, self.completion_tokens = dropped, 0
        self.finish_reason: FinishReason | None = None
        self._chunks, self._messages, self._text = chunks, messages, ""

    def __iter__(self) -> Iterator[str]:
        for chunk in self._chunks:
            self.completion_tokens, self.finish_reason = chunk.completion_tokens, chunk.finish_reason
            self._text += chunk.text
            yield chunk.text
        self.stop()

    def stop(self) -> None:
        """End the answer here; its text so far stays in the conversation."""
        self._chunks.close()
        self._messages.append(Message("assistant", self._text))


class Conversation:
    """The messages of a user and the answers of a model, after an optional `system` message."""

    _ANSWER_SHARE = 4
    """Old messages are dropped when less than this part of the context remains for an answer."""

    def __init__(
        self,
        model: Transformer,
        chat: Chat,
        sampling: Sampling,
        *,
        system: str | None,
        max_tokens: int,
        seed: int,
    ):
        """Start a conversation.

        Raises:
            UserError: the system message fills the context.
        """
        self.context = model.config.context
        self._engine, self._chat, self._sampling = Engine(model, rows=1), chat, sampling
        self._table = vocabulary_bytes(chat.tokenizer)
        self.max_tokens, self._seed = max_tokens, seed
        self._system = [] if system is None else [Message("system", system)]
        self._messages: list[Message] = []
        if self._system and not self._fits(self._system):
            raise UserError(f"The system message fills the context of {self.context} tokens; shorten it.")

    def reset(self) -> None:
        """Forget all messages except the system message."""
        self._messages = []

    def say(self, text: str) -> Answer:
        """Add a message of the user; return the answer, to be iterated over or stopped before the next message.

        The oldest messages are dropped, two by two, if the conversation does not fit the context.

        Raises:
            UserError: the message alone does not fit; the conversation stays as it was.
        """
        kept = [*self._messages, Message("user", text)]
        while len(kept) > 2 and not self._fits([*self._system, *kept]):
            kept = kept[2:]
        if not self._fits([*self._system, *kept]):
            raise UserError(f"The message and its answer exceed the context of {self.context} tokens; shorten it.")
        dropped = len(self._messages) + 1 - len(kept)
        self._messages = kept
        prompt_ids = self._chat.encode([*self._system, *kept], reply=True)
        request = Request(
            prompt_ids=prompt_ids,
            max_tokens=self.max_tokens,
            sampling=self._sampling,
            seed=derive(self._seed, "chat", *prompt_ids),
            stop_ids=self._chat.stop_ids,
        )
        return Answer(stream(self._engine, request, self._table), self._messages, dropped)

    def _fits(self, messages: Sequence[Message]) -> bool:
        remaining = self.context - len(self._chat.encode(messages, reply=True))
        return remaining >= min(self.max_tokens, max(1, self.context // self._ANSWER_SHARE))
