"""The engine of generation: sequences that are written side by side, one token of each a step.

Sequences join and leave between two steps (Yu et al. 2022, Orca, iteration-level scheduling): the same engine writes a
batch to its end and serves requests that come whenever they come. Prompts can be read in pieces between the steps
(chunked prefill: Agrawal et al. 2024, Sarathi-Serve), so that a long one does not keep the others from writing.
"""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from homegrown.inference.sampling import GREEDY, LogProbabilities, Sampling, Seen, choose, log_probabilities
from homegrown.model.cache import KVCache
from homegrown.model.transformer import Transformer
from homegrown.util.errors import UserError

Finish = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to write: the tokens before it, how each next one is chosen, and what ends it.

    A sequence ends at `max_new_tokens`, at the end of the model's context, or with a token of `stop_ids`. `seed` alone
    decides its random numbers. `likeliest` asks for log-probabilities: those of so many tokens beside the chosen one's.
    """

    prompt: Sequence[int]
    max_new_tokens: int
    sampling: Sampling = GREEDY
    seed: int = 0
    stop_ids: AbstractSet[int] = frozenset()
    likeliest: int | None = None


@dataclass(eq=False)
class Running:
    """A request that is being written; one object is one sequence of the engine."""

    request: Request
    room: int
    seen: Seen | None
    random: np.random.Generator
    read: int = 0
    """Tokens of the prompt that the cache holds."""
    last: int = -1
    written: int = 0


@dataclass(frozen=True)
class Written:
    """One token of one sequence. `finish` says that it was its last, and why; a stop token is no part of the text."""

    sequence: Running
    token: int
    finish: Finish | None
    probabilities: LogProbabilities | None = field(default=None)


class Engine:
    """Writes at most `rows` sequences at once, each at most `capacity` tokens long, its prompt included."""

    def __init__(self, model: Transformer, *, rows: int, capacity: int | None = None, piece: int | None = None):
        """Allocate the cache, in the type that the model computes in; `capacity` is the model's context by default.

        While sequences are being written, at most `piece` tokens of prompts, their padding among them, are read between
        two tokens of each; by default all that wait are.
        """
        self.model, self._piece = model, piece
        self._rows, self._capacity = rows, min(capacity or model.config.context, model.config.context)
        self._cache = allocate(model, rows, self._capacity)
        self._decode = step_of(model)
        self._waiting: list[Running] = []
        self._running: list[Running] = []

    @property
    def free(self) -> int:
        """How many more sequences there is room for."""
        return self._rows - len(self._running) - len(self._waiting)

    def add(self, request: Request) -> Running:
        """Let a sequence join at the next step.

        Raises UserError if its prompt is empty, or leaves no room for a token; RuntimeError if all rows are taken.
        """
        if not self.free:
            raise RuntimeError(f"all {self._rows} rows are taken")
        check(self.model, request.prompt)
        room = min(request.max_new_tokens, self._capacity - len(request.prompt))
        if room < 1:
            raise UserError(
                f"The prompt has {len(request.prompt)} tokens and leaves no room in a context of {self._capacity}; "
                "shorten it."
            )
        config, sampling = self.model.config, request.sampling
        seen = Seen(request.prompt, config.vocabulary_size, self.model.device) if sampling.penalised else None
        running = Running(request, room, seen, np.random.default_rng(request.seed))
        self._waiting.append(running)
        return running

    def remove(self, sequence: Running) -> None:
        """Let a sequence leave before its end; one that has ended has left already."""
        if sequence in self._waiting:
            if sequence.read:
                self._cache.free(len(self._running), len(self._running))
            self._waiting.remove(sequence)
        elif sequence in self._running:
            row, last = self._running.index(sequence), len(self._running) - 1
            self._cache.free(row, last)
            self._running[row] = self._running[last]
            self._running.pop()
            if self._waiting and self._waiting[0].read:
                self._cache.free(last, last + 1)

    @torch.inference_mode()
    def step(self) -> list[Written]:
        """Write one token of every sequence whose prompt has been read; return them, in no fixed order.

        There is none only when there is no sequence: where none is being written, prompts are read until one is.
        """
        logits = []
        if self._running:
            part = self._cache.part(0, len(self._running))
            logits.append(self._decode([sequence.last for sequence in self._running], part))
        while self._waiting:
            first = self._read()
            if first is not None:
                logits.append(first)
            if logits:
                break
        if not logits:
            return []
        return self._choose(torch.cat([part.float() for part in logits]))

    def _read(self) -> Tensor | None:
        """Read a piece of the prompts that wait; return the logits after those that are read now, if any is.

        The first of them may be read in part; it then has the row after those that are being written, and keeps its
        place before all others.
        """
        sequences, start = self._next_to_read(), len(self._running)
        prompts = [sequence.request.prompt[sequence.read :][: self._piece] for sequence in sequences]
        tokens, counts = padded(prompts)
        part = self._cache.part(start, start + len(sequences))
        hidden = self.model.hidden_states(tokens.to(self.model.device), part, counts)
        for sequence, count in zip(sequences, counts, strict=True):
            sequence.read += count
        if sequences[0].read < len(sequences[0].request.prompt):
            return None
        self._running += sequences
        del self._waiting[: len(sequences)]
        last = hidden[torch.arange(len(counts)), torch.tensor(counts) - 1]
        return self.model.logits(last)

    def _next_to_read(self) -> list[Running]:
        """Return the first that wait: as many as fit one piece, padded to the longest; a longer prompt alone."""
        longest = 0
        for count, sequence in enumerate(self._waiting):
            longest = max(longest, len(sequence.request.prompt))
            if count and self._piece is not None and longest * (count + 1) > self._piece:
                return self._waiting[:count]
        return list(self._waiting)

    def _choose(self, logits: Tensor) -> list[Written]:
        sequences = list(self._running)
        settings = [sequence.request.sampling for sequence in sequences]
        uniforms = torch.tensor(
            [sequence.random.random() if sequence.request.sampling.temperature else 0.0 for sequence in sequences],
            dtype=torch.float64,
        )
        chosen = choose(logits, settings, [one.seen for one in sequences], uniforms.to(logits.device)).tolist()
        probabilities = _asked_probabilities(logits, sequences, chosen)
        news = []
        for sequence, token, own in zip(sequences, chosen, probabilities, strict=True):
            sequence.last, sequence.written = token, sequence.written + 1
            finish: Finish | None = None
            if token in sequence.request.stop_ids:
                finish = "stop"
            elif sequence.written == sequence.room:
                finish = "length"
            elif sequence.seen is not None:
                sequence.seen.add(token)
            news.append(Written(sequence, token, finish, own))
        for one in news:
            if one.finish:
                self.remove(one.sequence)
        return news


Step = Callable[[Sequence[int], KVCache], Tensor]
"""Adds one token to each row of a cache and returns the next ones' logits [rows, vocabulary]."""


def step_of(model: Transformer) -> Step:
    """Return the fastest step there is for a model: compiled as a whole, or its forward pass."""
    # Imported here, for numba takes a while and a GPU does without.
    if model.device.type == "cpu" and model.config.family == "modern":
        from homegrown.inference.compiled_step import CompiledStep

        if CompiledStep.serves(model):
            return CompiledStep(model)

    def plain(tokens: Sequence[int], cache: KVCache) -> Tensor:
        logits: Tensor = model(torch.tensor([[token] for token in tokens], device=model.device), cache)[:, -1]
        return logits

    return plain


def check(model: Transformer, prompt: Sequence[int]) -> None:
    """Raise UserError if a prompt is empty or longer than the context."""
    if not prompt:
        raise UserError("The prompt is empty; give at least one token, such as the one that starts a document.")
    if len(prompt) > model.config.context:
        raise UserError(
            f"The prompt has {len(prompt)} tokens, more than the model's context of {model.config.context}; shorten it."
        )


def padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, list[int]]:
    """Return prompts as int64 [prompts, longest], padded on the right, and how long each is."""
    counts = [len(prompt) for prompt in prompts]
    tokens = torch.zeros(len(prompts), max(counts), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, : counts[row]] = torch.tensor(prompt)
    return tokens, counts


def allocate(model: Transformer, rows: int, capacity: int) -> KVCache:
    """Return an empty cache on the model's device, in the type in which it computes."""
    weight = next(model.parameters())
    kind = weight.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    return KVCache(model.config, rows, capacity, weight.device, dtype)


def _asked_probabilities(
    logits: Tensor, sequences: Sequence[Running], chosen: Sequence[int]
) -> list[LogProbabilities | None]:
    asked = [row for row, sequence in enumerate(sequences) if sequence.request.likeliest is not None]
    found: list[LogProbabilities | None] = [None] * len(sequences)
    if asked:
        counts = [sequences[row].request.likeliest or 0 for row in asked]
        own = log_probabilities(logits[asked], [chosen[row] for row in asked], counts)
        for row, one in zip(asked, own, strict=True):
            found[row] = one
    return found
