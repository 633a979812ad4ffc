"""The served models by name, for everything in this process that generates text: the API and the page.

Engines run in threads of their own; here their chunks come back to the event loop.
"""

import asyncio
import contextlib
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Protocol, Self, cast

from homegrown.inference.engine import Request
from homegrown.inference.grammar import Grammar, Grammars
from homegrown.inference.streaming import Chunk
from homegrown.serving.metrics import Metrics
from homegrown.serving.refusal import Refused
from homegrown.serving.tools import for_template
from homegrown.tokenizer.chat import Chat, Message, Tools, with_system
from homegrown.tokenizer.detokenizer import vocabulary_bytes
from homegrown.tokenizer.special import text_prompt
from homegrown.util.errors import UserError

Prompt = str | Sequence[int] | Sequence[Message]
"""Text, which starts a document; tokens as they are; or the messages of a conversation."""

Deliver = Callable[[Chunk | Exception], None]
"""Called from the engine's thread with each chunk, or with the error that ended the request."""


class Engine(Protocol):
    """Processes as many requests at once as it has rows; the others wait in line."""

    name: str
    rows: int
    context: int
    """Maximum tokens of a sequence, including its prompt."""

    def submit(self, request: Request, deliver: Deliver) -> Callable[[], None]:
        """Take a request; return a function that cancels it. Both can be called from any thread."""

    def running(self) -> int:
        """Return the number of requests that have a row."""

    def embed(self, tokens: Sequence[int]) -> list[float]:
        """Return the mean of the last hidden states of a text, of length 1; raises Refused if it cannot."""

    def close(self) -> None:
        """Cancel all requests and free the memory."""


@dataclass
class Model:
    """A served model."""

    name: str
    created: int
    """Time of its creation, in seconds since 1970."""
    answers: bool = True
    """Whether it learned to answer; a pretrained model continues text."""
    chat: Chat | None = None
    table: Sequence[bytes] = ()
    grammars: Grammars | None = None
    engine: Engine | None = None
    """None while the model is loading."""
    failure: str | None = None
    """Why the model no longer answers."""
    active: "set[Generation]" = field(default_factory=set)

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of a token; special tokens, and those that pad the vocabulary, have none."""
        return self.table[token] if token < len(self.table) else b""


class Wakeups:
    """Chunks on their way from the engines' threads to the event loop, with one wake-up for all that wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop, self._woken = loop, False
        self._waiting: deque[tuple[Generation, Chunk | Exception, float]] = deque()

    def put(self, generation: "Generation", chunk: Chunk | Exception, *, wake: bool) -> None:
        """Take a chunk of a generation from any thread; without `wake`, it is used with a later one."""
        self._waiting.append((generation, chunk, time.perf_counter()))
        if wake and not self._woken:
            self._woken = True
            # The loop may be closed: the server can end while an engine still generates.
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._take)

    def _take(self) -> None:
        self._woken = False  # first: a chunk that comes meanwhile wakes the loop again
        while self._waiting:
            generation, chunk, arrived = self._waiting.popleft()
            generation.take(chunk, arrived)


class Generation:
    """One request while it is generated; its chunks go to the output of its response."""

    def __init__(
        self, index: int, model: Model, output: "Outputs", metrics: Metrics, wakeups: Wakeups, *, streamed: bool
    ):
        self._index, self._model, self._output = index, model, output
        self._streamed, self._begun = streamed, False
        self._metrics, self._wakeups = metrics, wakeups
        self._last, self._completion_tokens = time.perf_counter(), 0
        self.cancel: Callable[[], None] = lambda: None

    def deliver(self, chunk: Chunk | Exception) -> None:
        """Take a chunk from the engine's thread."""
        # Woken for each token of a complete response, the event loop would take time from the engine for nothing.
        wake = self._streamed or not self._begun or isinstance(chunk, Exception) or chunk.finish_reason is not None
        self._begun = True
        self._wakeups.put(self, chunk, wake=wake)

    def take(self, chunk: Chunk | Exception, arrived: float) -> None:
        """Take a chunk in the event loop; it arrived at a time of `time.perf_counter`."""
        if self not in self._model.active:
            return
        if isinstance(chunk, Chunk):
            before = self._completion_tokens
            self._metrics.generated(
                self._model.name, chunk.completion_tokens - before, arrived - self._last, first=not before
            )
            self._last, self._completion_tokens = arrived, chunk.completion_tokens
        if isinstance(chunk, Exception) or chunk.finish_reason:
            self._model.active.discard(self)
        self._output.add(self._index, chunk)

    def close(self) -> None:
        """Cancel the request, unless it has ended; its row is free at the engine's next step."""
        if self in self._model.active:
            self._model.active.discard(self)
            self.cancel()


class Outputs:
    """The outputs of the requests of one response: iterate over the chunks that are ready, with their indices.

    It belongs to the event loop that submitted the requests. Leaving its `with` statement cancels those that run.
    """

    def __init__(self) -> None:
        self.generations: list[Generation] = []
        self._ready: deque[tuple[int, Chunk | Exception]] = deque()
        self._arrived, self._ended = asyncio.Event(), 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for generation in self.generations:
            generation.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[tuple[int, Chunk]]:
        if self._ended == len(self.generations):
            raise StopAsyncIteration
        await self._arrived.wait()
        found: list[tuple[int, Chunk]] = []
        while self._ready:
            index, chunk = self._ready[0]
            if isinstance(chunk, Exception):
                if found:
                    return found  # what precedes the error is part of the response
                raise chunk
            self._ready.popleft()
            found.append((index, chunk))
            self._ended += chunk.finish_reason is not None
        self._arrived.clear()
        return found

    def add(self, index: int, chunk: Chunk | Exception) -> None:
        """Add a chunk of a request."""
        self._ready.append((index, chunk))
        self._arrived.set()


class Service:
    """Models by name, each with its engine and a bounded queue."""

    def __init__(
        self,
        models: Iterable[Model],
        *,
        queue: int,
        system: str | None = None,
        aliases: Mapping[str, str] = MappingProxyType({}),
        typed: Mapping[str, str] = MappingProxyType({}),
    ):
        """Serve models; each answers once `ready` is called for it.

        `queue` is the maximum of requests that wait for a row of a model. `system` replaces the models' default system
        messages. `aliases` and `typed` are other names of the models; the first are listed with them.
        """
        self._models = {model.name: model for model in models}
        self.listed_aliases = list(aliases)
        """Names in addition to those of the models."""
        self._aliases = {**typed, **aliases}
        self._queue, self._system, self._stopping = queue, system, False
        self.metrics = Metrics(self.lengths)
        self._wakeups: Wakeups | None = None
        self.embedding = asyncio.Lock()
        """Limits embeddings to one text at a time; more would only take the threads that encode prompts."""

    @property
    def names(self) -> list[str]:
        """The names of the models, in the order of the command line."""
        return list(self._models)

    def model(self, name: str) -> Model:
        """Return a model by its name or an alias; raises Refused if none has it."""
        for one in (name, name.removesuffix(":latest"), f"{name}:latest"):  # the same model for Ollama's clients
            if found := self._models.get(self._aliases.get(one, one)):
                return found
        known = ", ".join([*self._models, *self.listed_aliases])
        raise Refused(f"The model {name!r} is not served; use one of {known}.", "unknown_model", "model")

    def capacity(self, name: str) -> int:
        """Return the maximum of requests that a model takes at a time, running and queued."""
        return cast(Engine, self._loaded(name).engine).rows + self._queue

    def ready(self, name: str, engine: Engine, chat: Chat) -> None:
        """Start to serve a loaded model."""
        model = self._models[name]
        model.chat, model.table = chat, vocabulary_bytes(chat.tokenizer)
        model.grammars = Grammars(chat.tokenizer, chat.stop_ids)
        # Last: the engine makes the model ready.
        model.engine = engine

    def failed(self, name: str, message: str) -> None:
        """Mark a model as failed, with the reason."""
        self._models[name].failure = message

    @property
    def state(self) -> dict[str, str]:
        """The state of each model: `ready`, `loading`, or the reason of its failure."""
        return {name: model.failure or ("ready" if model.engine else "loading") for name, model in self._models.items()}

    def lengths(self) -> dict[str, tuple[int, int]]:
        """Return the number of running and of queued requests of each model."""
        found = {}
        for name, model in self._models.items():
            running = model.engine.running() if model.engine else 0
            found[name] = running, max(0, len(model.active) - running)
        return found

    def chat(self, name: str) -> Chat:
        """Return the chat format of a model."""
        return cast(Chat, self._loaded(name).chat)

    def encode(
        self,
        name: str,
        prompt: Prompt,
        *,
        continued: bool = False,
        tools: Tools | None = None,
        prompt_field: str = "prompt",
    ) -> list[int]:
        """Return the token ids of a prompt; raises Refused if the model cannot take it.

        With `continued`, the last message is the beginning of the answer. `tools` belong to a conversation.
        `prompt_field` is the field of token ids in error messages.
        """
        model = self._loaded(name)
        chat = cast(Chat, model.chat)
        if isinstance(prompt, str):
            _check_text(prompt)
            return text_prompt(chat.tokenizer, prompt)
        if prompt and isinstance(prompt[0], Message):
            messages = [cast(Message, message) for message in prompt]
            _check_text(*(json.dumps(message.plain(), ensure_ascii=False) for message in messages))
            _check_text(json.dumps(tools, ensure_ascii=False))
            system = chat.system if self._system is None else self._system
            try:
                complete, tools = for_template(chat, with_system(messages, system), tools)
                return chat.encode_continued(complete) if continued else chat.encode(complete, reply=True, tools=tools)
            except UserError as error:
                raise Refused(str(error), "invalid", "messages") from None
        ids = [cast(int, token) for token in prompt]
        if not ids:
            raise Refused("The prompt is empty; give at least one token.", "invalid", prompt_field)
        self._check_tokens(model, prompt_field, ids)
        return ids

    @staticmethod
    def _check_tokens(model: Model, field: str, tokens: Iterable[int]) -> None:
        size = cast(Chat, model.chat).tokenizer.get_vocab_size()
        if unknown := next((token for token in tokens if not 0 <= token < size), None):
            message = f"{field} has the unknown token {unknown}; those of {model.name} are 0 to {size - 1}."
            raise Refused(message, "invalid", field)

    def tokens(self, name: str, text: str, *, special: bool) -> list[int]:
        """Return the token ids of a text, with `special` as a prompt has them."""
        if special:
            return self.encode(name, text)
        _check_text(text)
        ids: list[int] = cast(Chat, self._loaded(name).chat).tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def grammar(self, name: str, text: str, field: str = "grammar") -> Grammar:
        """Return a grammar of a field compiled for a model; raises Refused if it cannot be used."""
        grammars = cast(Grammars, self._loaded(name).grammars)
        try:
            return grammars.compile(text)
        except UserError as error:
            raise Refused(str(error), "invalid", field) from None

    def embed(self, name: str, tokens: Sequence[int]) -> list[float]:
        """Return the embedding of a text; raises Refused if it does not fit the context."""
        engine = cast(Engine, self._loaded(name).engine)
        if len(tokens) > engine.context:
            raise Refused(_too_long(engine.context, len(tokens), None), "too_long", "input")
        return engine.embed(tokens)

    def context(self, name: str) -> int:
        """Return the maximum tokens of a sequence of a model."""
        return cast(Engine, self._loaded(name).engine).context

    def decode(self, name: str, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without special ones."""
        model = self._loaded(name)
        self._check_tokens(model, "tokens", tokens)
        decoded: str = cast(Chat, model.chat).tokenizer.decode(list(tokens))
        return decoded

    def submit(
        self, name: str, requests: Sequence[Request], prompt_field: str = "prompt", *, streamed: bool = True
    ) -> Outputs:
        """Submit all requests of a response, or none; use the result in a `with` statement.

        `prompt_field` is the field of the prompt in error messages. Unless the response is `streamed`, chunks after
        the first wait for the end of their request.

        Raises:
            Refused: there is no such model, it is loading, a prompt does not fit its context, or its queue is full.
        """
        model = self._loaded(name)
        checked = [self._checked(model, request, prompt_field) for request in requests]
        if len(model.active) + len(checked) > self.capacity(name):
            raise Refused(f"The queue of {model.name} is full ({len(model.active)} requests); try again soon.", "busy")
        loop, outputs = asyncio.get_running_loop(), Outputs()
        if self._wakeups is None or self._wakeups.loop is not loop:
            self._wakeups = Wakeups(loop)
        with contextlib.ExitStack() as submitted:
            submitted.enter_context(outputs)
            for index, request in enumerate(checked):
                generation = Generation(index, model, outputs, self.metrics, self._wakeups, streamed=streamed)
                generation.cancel = cast(Engine, model.engine).submit(request, generation.deliver)
                model.active.add(generation)
                outputs.generations.append(generation)
                self.metrics.prompt(model.name, len(request.prompt_ids))
            submitted.pop_all()
        return outputs

    def _checked(self, model: Model, request: Request, prompt_field: str) -> Request:
        """Return a request with its limit of tokens; raises Refused if it cannot be served."""
        _check_text(*request.stop)
        self._check_tokens(model, "logit_bias", request.logit_bias)
        self._check_tokens(model, "stop_token_ids", request.stop_ids)
        if sum(map(math.isinf, request.logit_bias.values())) == len(model.table):
            raise Refused("logit_bias bans all tokens; leave some.", "invalid", "logit_bias")
        context, prompt_tokens = cast(Engine, model.engine).context, len(request.prompt_ids)
        remaining = context - prompt_tokens
        max_tokens = remaining if request.max_tokens is None else request.max_tokens
        if max_tokens > remaining or (remaining < 1 and max_tokens):
            message = _too_long(context, prompt_tokens, max_tokens if remaining >= 1 else None)
            raise Refused(message, "too_long", prompt_field)
        if request.min_tokens > max_tokens:
            message = f"min_tokens is {request.min_tokens}, but at most {max_tokens} can be generated; reduce it."
            raise Refused(message, "invalid", "min_tokens")
        return replace(request, max_tokens=max_tokens)

    def stop(self) -> None:
        """End all requests and refuse new ones."""
        self._stopping = True
        for model in self._models.values():
            for generation in list(model.active):
                generation.deliver(Refused("The server was stopped.", "stopping"))

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
            raise Refused(f"{name} has failed: {model.failure}", "failed")
        if model.engine is None:
            raise Refused(f"{name} is loading; try again soon.", "loading")
        return model


def _check_text(*texts: str) -> None:
    """Refuse half of a surrogate pair, as left by a program that cuts an emoji: it has no bytes."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise Refused("The text has an unpaired surrogate; send valid Unicode.", "invalid") from error


def _too_long(context: int, prompt_tokens: int, max_tokens: int | None) -> str:
    message = f"This model's maximum context length is {context} tokens, but the prompt has {prompt_tokens}"
    more = "; shorten it" if max_tokens is None else f" and the completion up to {max_tokens}; reduce one"
    return f"{message}{more}."
