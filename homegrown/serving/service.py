"""The models that are served, by name, to everything in this process that wants text of them: the API and the page.

An engine writes in threads of its own; here is where its tokens come back to the event loop.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self, cast

from tokenizers import Tokenizer

from homegrown.serving.completion import Completion, Delta, Refused
from homegrown.serving.metrics import Metrics
from homegrown.tokenizer import chat
from homegrown.tokenizer.chat import Message
from homegrown.tokenizer.special import special_ids

Deliver = Callable[[Delta | Exception], None]
"""Called from the engine's thread with each delta, or with what ended the request before its end."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """A completion as an engine takes it: tokens, how many to write at most, and a seed."""

    completion: Completion
    prompt: list[int]
    room: int
    seed: int
    deliver: Deliver


class Engine(Protocol):
    """Writes several orders at once, as many as it has rows; the others wait their turn."""

    name: str
    rows: int
    context: int
    """Most tokens of one sequence, its prompt included."""

    def start(self, order: Order) -> Callable[[], None]:
        """Take an order; return what cancels it. Both may be called from any thread."""

    def running(self) -> int:
        """Return how many orders have a row now."""

    def close(self) -> None:
        """Drop all orders and free the memory."""


@dataclass
class Model:
    """A model that is served."""

    name: str
    created: int
    """When it was made, in seconds since 1970."""
    tokenizer: Tokenizer | None = None
    engine: Engine | None = None
    """Until there is one, the model is being loaded."""
    system: str | None = None
    """What it is told where a conversation does not say it."""
    failure: str | None = None
    """Why it will not answer again."""
    opened: "set[Writing]" = field(default_factory=set)


class Writing:
    """A completion that is being written: iterate over its deltas, or `close` it, which ends it at once.

    It belongs to the event loop in which it was begun.
    """

    def __init__(self, model: Model, prompt_tokens: int, metrics: Metrics):
        self.prompt_tokens = prompt_tokens
        self._model, self._metrics = model, metrics
        self._loop, self._deltas = asyncio.get_running_loop(), asyncio.Queue[Delta | Exception]()
        self._cancel: Callable[[], None] = lambda: None
        self._begun = time.perf_counter()
        self._last, self._count, self._finished = self._begun, 0, False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        if self._finished:
            raise StopAsyncIteration
        delta = await self._deltas.get()
        if isinstance(delta, Exception):
            self._finished = True
            raise delta
        self._finished = delta.finish is not None
        return delta

    def close(self) -> None:
        """End it; its row is free for others at the engine's next step."""
        if self in self._model.opened:
            self._model.opened.discard(self)
            self._cancel()
        self._finished = True

    def deliver(self, delta: Delta | Exception) -> None:
        """Take a delta from the engine's thread."""
        # The loop may be closed: the server ends while an engine still writes.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._take, delta)

    def _take(self, delta: Delta | Exception) -> None:
        if self not in self._model.opened:
            return
        if isinstance(delta, Delta):
            now = time.perf_counter()
            self._metrics.wrote(self._model.name, delta.count - self._count, now - self._last, first=not self._count)
            self._last, self._count = now, delta.count
        if isinstance(delta, Exception) or delta.finish:
            self._model.opened.discard(self)
        self._deltas.put_nowait(delta)


class Service:
    """Models by name, each with its engine and a queue of bounded length before it."""

    def __init__(self, models: Iterable[Model], *, queue: int, system: str | None = None):
        """Serve models, of which `ready` says that they are loaded.

        `queue` is how many completions may wait for a row of a model; `system` is what a conversation without a system
        message begins with, instead of what the model has.
        """
        self._models = {model.name: model for model in models}
        self._queue, self._system, self._stopping = queue, system, False
        self.metrics = Metrics(self.lengths)
        self.at_stop: list[Callable[[], None]] = []
        """Called once it is stopped, for what else has to end then."""

    @property
    def names(self) -> list[str]:
        """What models are called here, in the order in which they were named."""
        return list(self._models)

    def model(self, name: str) -> Model:
        """Return a model; raises Refused if there is none of this name."""
        if name not in self._models:
            raise Refused(
                f"The model {name!r} is not served here; these are: {', '.join(self._models)}.",
                "unknown_model",
                "model",
            )
        return self._models[name]

    def ready(self, name: str, engine: Engine, tokenizer: Tokenizer, system: str | None = None) -> None:
        """Begin to serve a model that is loaded; `system` is its own system message, where it has one."""
        model = self._models[name]
        model.tokenizer, model.system = tokenizer, system
        # The last, for it is what says that the model is there.
        model.engine = engine

    def failed(self, name: str, sentence: str) -> None:
        """Say that a model cannot answer any more, and why."""
        self._models[name].failure = sentence

    @property
    def state(self) -> dict[str, str]:
        """Of each model: `ready`, `loading`, or the sentence on why it failed."""
        return {name: model.failure or ("ready" if model.engine else "loading") for name, model in self._models.items()}

    def lengths(self) -> dict[str, tuple[int, int]]:
        """Return for each model how many completions are being written, and how many wait."""
        found = {}
        for name, model in self._models.items():
            running = model.engine.running() if model.engine else 0
            found[name] = running, max(0, len(model.opened) - running)
        return found

    def encode(self, name: str, completion: Completion) -> list[int]:
        """Return the tokens that a completion's prompt is for a model; raises Refused."""
        model, prompt = self._loaded(name), completion.prompt
        tokenizer = cast(Tokenizer, model.tokenizer)
        if isinstance(prompt, str):
            return [special_ids(tokenizer).bos, *tokenizer.encode(prompt, add_special_tokens=False).ids]
        if prompt and isinstance(prompt[0], Message):
            system = model.system if self._system is None else self._system
            messages = chat.with_system([cast(Message, message) for message in prompt], system)
            return chat.encode(tokenizer, messages, reply=True)
        ids = [cast(int, token) for token in prompt]
        if not ids:
            raise Refused("The prompt is empty; give at least one token.", "invalid", "prompt")
        if not all(0 <= token < tokenizer.get_vocab_size() for token in ids):
            raise Refused(
                f"The prompt has a token that {name} does not know; its tokens are 0 to "
                f"{tokenizer.get_vocab_size() - 1}.",
                "invalid",
                "prompt",
            )
        return ids

    def text(self, name: str, tokens: Sequence[int]) -> str:
        """Return the text of tokens; special ones have none."""
        decoded: str = cast(Tokenizer, self._loaded(name).tokenizer).decode(list(tokens))
        return decoded

    def begin(self, name: str, completion: Completion) -> Writing:
        """Have a completion written; `with` it, so that it ends when nobody reads it any more.

        Raises:
            Refused: there is no such model, it is not loaded yet, the prompt does not fit its context, or too many
                completions wait for it already.
        """
        prompt = self.encode(name, completion)
        model = self._loaded(name)
        engine = cast(Engine, model.engine)
        room = engine.context - len(prompt)
        if room < 1 or (completion.max_tokens is not None and completion.max_tokens > room):
            raise Refused(_too_long(engine.context, len(prompt), completion.max_tokens), "too_long", _fault(completion))
        if len(model.opened) >= engine.rows + self._queue:
            raise Refused(f"{len(model.opened)} completions of {name} are under way; try again soon.", "busy")
        writing = Writing(model, len(prompt), self.metrics)
        order = Order(
            completion=completion,
            prompt=prompt,
            room=room if completion.max_tokens is None else completion.max_tokens,
            seed=secrets.randbits(63) if completion.seed is None else completion.seed,
            deliver=writing.deliver,
        )
        model.opened.add(writing)
        self.metrics.read(name, len(prompt))
        writing._cancel = engine.start(order)
        return writing

    def stop(self) -> None:
        """End all that is being written, and take no more."""
        self._stopping = True
        for model in self._models.values():
            for writing in list(model.opened):
                writing.deliver(Refused("The server was stopped.", "stopping"))
        for call in self.at_stop:
            call()

    def close(self) -> None:
        """Free the engines."""
        for model in self._models.values():
            if model.engine:
                model.engine.close()

    def _loaded(self, name: str) -> Model:
        model = self.model(name)
        if self._stopping:
            raise Refused("The server was stopped.", "stopping")
        if model.failure:
            raise Refused(f"{name} cannot answer: {model.failure}", "failed")
        if model.engine is None:
            raise Refused(f"{name} is being loaded; try again soon.", "loading")
        return model


def _too_long(context: int, prompt: int, asked: int | None) -> str:
    sentence = f"This model's maximum context length is {context} tokens, and the prompt has {prompt}"
    return f"{sentence}; shorten it." if asked is None else f"{sentence} while max_tokens asks for {asked} more."


def _fault(completion: Completion) -> str:
    prompt = completion.prompt
    return "messages" if not isinstance(prompt, str) and prompt and isinstance(prompt[0], Message) else "prompt"
