"""The generation engine: it decodes several sequences side by side, one token of each per step.

Sequences join and leave between two steps (Yu et al. 2022, Orca, iteration-level scheduling), so the same engine
finishes a fixed batch and serves requests as they arrive. Long prompts can be prefilled in chunks between the steps
(chunked prefill: Agrawal et al. 2024, Sarathi-Serve), so that the other sequences keep decoding.
"""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from llguidance import LLMatcher
from torch import Tensor

from homegrown.inference.grammar import Grammar, Masks
from homegrown.inference.prefixes import Prefixes
from homegrown.inference.sampling import GREEDY, Logprobs, Sampling, Seen, choose, log_probabilities
from homegrown.model.adapters import Adapters
from homegrown.model.cache import KVCache
from homegrown.model.transformer import Transformer
from homegrown.util.errors import UserError

FinishReason = Literal["stop", "length"]

_NEVER = -1e4
"""Added to the logits of tokens that are a last resort."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request to generate tokens: the same object for the server, both of its engines and the command line."""

    prompt_ids: Sequence[int]
    max_tokens: int | None = None
    """Maximum tokens to generate; None: until the context is full."""
    sampling: Sampling = GREEDY
    seed: int | None = None
    """The same seed gives the same output; None: a random one."""
    stop: tuple[str, ...] = ()
    """Strings that end the output and are not part of it; whoever decodes the tokens looks for them."""
    stop_ids: AbstractSet[int] = frozenset()
    """Tokens that end the output and are not part of it."""
    min_tokens: int = 0
    """Tokens to generate before a stop token or a stop string can end the output."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these tokens before penalties; minus infinity bans a token."""
    top_logprobs: int | None = None
    """Return each token's log-probability and those of this many top tokens; None: no log-probabilities."""
    prompt_logprobs: bool = False
    """Return them for the prompt's tokens too."""
    adapter: str | None = None
    """The name of one of the engine's adapters; None: the model itself."""
    grammar: Grammar | None = None
    """Holds the output; stop tokens are allowed where it is complete, and nothing else where it cannot go on."""


@dataclass(eq=False)
class Running:
    """The state of one request inside the engine: one sequence, waiting for its prefill or decoding."""

    request: Request
    max_tokens: int
    """The request's, or the remaining context if that is less."""
    seen: Seen | None
    random: np.random.Generator
    prefilled: int = 0
    """Prompt tokens that are in the cache."""
    last: int = -1
    completion_tokens: int = 0
    matcher: LLMatcher | None = None
    """What the request's grammar has read of the output."""
    failure: str | None = None
    """Why its grammar ended the output early."""
    prompt_logprobs: list[Logprobs] = field(default_factory=list)
    """Of the prefilled tokens, if the request asks for them; the first token has none."""


@dataclass(frozen=True)
class GeneratedToken:
    """One generated token. `finish_reason` is set on the last one of a request; a stop token is not output.

    `logprob` and `top_logprobs` (id and log-probability, most likely first) are there if the request asks for them:
    natural logarithms of the model's own probabilities, before penalties, temperature and filters.
    """

    id: int
    finish_reason: FinishReason | None = None
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


class Engine:
    """Decodes at most `rows` sequences at once, each with at most `capacity` tokens including its prompt."""

    def __init__(
        self,
        model: Transformer,
        *,
        rows: int,
        capacity: int | None = None,
        prefill_chunk: int | None = None,
        prefix_bytes: int = 0,
        adapters: Adapters | None = None,
        interrupted: Callable[[], bool] = lambda: False,
    ):
        """Allocate the cache in the type in which the model computes; `capacity` defaults to the model's context.

        While sequences decode, at most `prefill_chunk` prompt tokens, padding included, are prefilled between two
        steps; by default all waiting prompts are. Chunks of prompts are kept for others that begin with the same
        tokens, in at most `prefix_bytes`. `adapters` are those on the model. `interrupted` is called after each chunk;
        if it returns true, the step ends.
        """
        self.model, self._prefill_chunk = model, prefill_chunk
        self._rows, self._capacity = rows, min(capacity or model.config.context, model.config.context)
        self._cache = allocate(model, rows, self._capacity)
        self._adapters = adapters or Adapters(model, {})
        self._decode = step_of(model, self._adapters)
        self._waiting: list[Running] = []
        self._running: list[Running] = []
        self._masks: Masks | None = None
        self._interrupted = interrupted
        self._prefixes = Prefixes(prefill_chunk, prefix_bytes) if prefill_chunk and prefix_bytes else None

    @property
    def free(self) -> int:
        """Number of free rows."""
        return self._rows - len(self._running) - len(self._waiting)

    def add(self, request: Request) -> Running:
        """Add a request; its sequence joins at the next step.

        With `max_tokens` 0, only its prompt is prefilled; the token that ends it is not output.

        Raises UserError if its prompt is empty or fills the context; RuntimeError if no row is free.
        """
        if not self.free:
            raise RuntimeError(f"all {self._rows} rows are in use")
        prompt_tokens = len(request.prompt_ids)
        check(self.model, request.prompt_ids)
        remaining = self._capacity - prompt_tokens
        max_tokens = remaining if request.max_tokens is None else min(request.max_tokens, remaining)
        if max_tokens < 1 and request.max_tokens != 0:
            raise UserError(f"The prompt of {prompt_tokens} tokens fills the context of {self._capacity}; shorten it.")
        config, sampling = self.model.config, request.sampling
        seen = Seen(request.prompt_ids, config.vocabulary_size, self.model.device) if sampling.penalized else None
        running = Running(request, max_tokens, seen, np.random.default_rng(request.seed))
        if request.grammar is not None:
            running.matcher = request.grammar.matcher()
            self._masks = self._masks or Masks(self._rows, request.grammar.vocabulary_size)
        self._waiting.append(running)
        return running

    def remove(self, sequence: Running) -> None:
        """Remove a sequence before its end; a finished one is already removed."""
        if sequence in self._waiting:
            if sequence.prefilled:
                self._cache.free(len(self._running), len(self._running))
            self._waiting.remove(sequence)
        elif sequence in self._running:
            row, last = self._running.index(sequence), len(self._running) - 1
            self._cache.free(row, last)
            self._running[row] = self._running[last]
            self._running.pop()
            if self._waiting and self._waiting[0].prefilled:
                self._cache.free(last, last + 1)

    @torch.inference_mode()
    def step(self) -> dict[Running, GeneratedToken]:
        """Generate one token of every prefilled sequence.

        The result is empty only if the engine has no sequence, or is interrupted: while none decodes, prompts are
        prefilled until one is.
        """
        logits = []
        if self._running:
            part = self._cache.part(0, len(self._running))
            tokens = [self._embedded([sequence.last], sequence)[0] for sequence in self._running]
            self._adapters.use(_adapters_of(self._running))
            logits.append(self._of_tokens(self._decode(tokens, part), self._running))
        while self._waiting:
            first = self._prefill()
            if first is not None:
                logits.append(first)
            if logits or self._interrupted():
                break
        if not logits:
            return {}
        return self._choose(torch.cat([part.float() for part in logits]))

    def _prefill(self) -> Tensor | None:
        """Prefill a chunk of the waiting prompts; return the logits after those that are now complete, if any is.

        The first prompt may be prefilled in part; it then has the row after the decoding sequences and stays first.
        """
        sequences, start = self._next_to_prefill(), len(self._running)
        part = self._cache.part(start, start + len(sequences))
        first = sequences[0]
        if self._prefixes and not first.prefilled and len(sequences) == 1 and not first.request.prompt_logprobs:
            first.prefilled = self._prefixes.restore(first.request.prompt_ids, part, first.request.adapter)
        prompts = [
            self._embedded(one.request.prompt_ids[one.prefilled :][: self._prefill_chunk], one) for one in sequences
        ]
        tokens, counts = padded(prompts)
        self._adapters.use(_adapters_of(sequences))
        hidden = self.model.hidden_states(tokens.to(self.model.device), part, counts)
        for row, (sequence, count) in enumerate(zip(sequences, counts, strict=True)):
            if sequence.request.prompt_logprobs:
                self._score(sequence, hidden[row, :count])
            sequence.prefilled += count
        if self._prefixes and len(sequences) == 1:
            self._prefixes.keep(first.request.prompt_ids[: first.prefilled], part, first.request.adapter)
        if sequences[0].prefilled < len(sequences[0].request.prompt_ids):
            return None
        self._running += sequences
        del self._waiting[: len(sequences)]
        last = hidden[torch.arange(len(counts)), torch.tensor(counts) - 1]
        return self._of_tokens(self.model.logits(last), sequences)

    def embed(self, tokens: Sequence[int], adapter: str | None = None) -> Tensor:
        """Return the hidden states [tokens, hidden] of a text."""
        self._adapters.use([adapter])
        ids = torch.tensor([list(self._adapters.embedded(tokens, adapter))], device=self.model.device)
        return self.model.hidden_states(ids)[0]

    def _embedded(self, tokens: Sequence[int], sequence: Running) -> Sequence[int]:
        return self._adapters.embedded(tokens, sequence.request.adapter)

    def _of_tokens(self, logits: Tensor, sequences: Sequence[Running]) -> Tensor:
        """Return the logits [sequences, vocabulary] of those that a pass returned."""
        return self._adapters.chosen(logits, _adapters_of(sequences), self.model.config.vocabulary_size)

    def _score(self, sequence: Running, hidden: Tensor) -> None:
        """Add the log-probabilities of the prompt's tokens that follow the hidden states [tokens, hidden]."""
        request, start = sequence.request, sequence.prefilled
        if not start:
            sequence.prompt_logprobs.append((None, ()))
        following = request.prompt_ids[start + 1 : start + 1 + len(hidden)]
        if following:
            logits = self.model.logits(hidden[: len(following)]).float()
            logits = self._of_tokens(logits, [sequence] * len(following))
            counts = [request.top_logprobs or 0] * len(following)
            sequence.prompt_logprobs += log_probabilities(logits, following, counts)

    def _next_to_prefill(self) -> list[Running]:
        """Return the first waiting sequences that fit one chunk, padded to the longest; a longer prompt alone."""
        longest = 0
        for count, sequence in enumerate(self._waiting):
            longest = max(longest, len(sequence.request.prompt_ids))
            if count and self._prefill_chunk is not None and longest * (count + 1) > self._prefill_chunk:
                return self._waiting[:count]
        return list(self._waiting)

    def _choose(self, logits: Tensor) -> dict[Running, GeneratedToken]:
        sequences = list(self._running)
        settings = [sequence.request.sampling for sequence in sequences]
        uniforms = torch.tensor(
            [sequence.random.random() if sequence.request.sampling.temperature else 0.0 for sequence in sequences],
            dtype=torch.float64,
        )
        allowed, matchers = _biased(logits, sequences), [sequence.matcher for sequence in sequences]
        if self._masks is not None and any(matchers):
            allowed = self._masks.apply(allowed, matchers)
        chosen = choose(allowed, settings, [one.seen for one in sequences], uniforms.to(logits.device)).tolist()
        logprobs = _requested_logprobs(logits, sequences, chosen)
        generated = {}
        for sequence, token, (logprob, top_logprobs) in zip(sequences, chosen, logprobs, strict=True):
            sequence.last = token
            sequence.completion_tokens = min(sequence.completion_tokens + 1, sequence.max_tokens)
            finish_reason: FinishReason | None = None
            if token in sequence.request.stop_ids and sequence.max_tokens:
                finish_reason = "stop"
            elif sequence.matcher and sequence.max_tokens and not sequence.matcher.consume_token(token):
                finish_reason, sequence.failure = "stop", sequence.matcher.get_error().partition("\n")[0]
            elif sequence.completion_tokens == sequence.max_tokens:
                finish_reason = "length"
            elif sequence.seen is not None:
                sequence.seen.add(token)
            generated[sequence] = GeneratedToken(token, finish_reason, logprob, top_logprobs)
        for sequence, one in generated.items():
            if one.finish_reason:
                self.remove(sequence)
        return generated


Step = Callable[[Sequence[int], KVCache], Tensor]
"""Adds one token to each row of a cache and returns the next logits [rows, vocabulary]."""


def step_of(model: Transformer, adapters: Adapters | None = None) -> Step:
    """Return the fastest step for a model, and the adapters on it: the compiled CPU kernel, or its forward pass."""
    # Imported here: numba is slow to import, and a GPU does not need it.
    if model.device.type == "cpu" and model.config.family == "modern":
        from homegrown.inference.compiled_step import CompiledStep

        if CompiledStep.serves(model):
            return CompiledStep(model, adapters)

    def plain(tokens: Sequence[int], cache: KVCache) -> Tensor:
        logits: Tensor = model(torch.tensor([[token] for token in tokens], device=model.device), cache)[:, -1]
        return logits

    return plain


def check(model: Transformer, prompt: Sequence[int]) -> None:
    """Raise UserError if a prompt is empty or longer than the context."""
    if not prompt:
        raise UserError("The prompt is empty; give at least one token.")
    if len(prompt) > model.config.context:
        raise UserError(
            f"The prompt of {len(prompt)} tokens exceeds the model's context of {model.config.context}; shorten it."
        )


def padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, list[int]]:
    """Return prompts as int64 [prompts, longest], padded on the right, and the length of each."""
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


def _adapters_of(sequences: Sequence[Running]) -> list[str | None]:
    return [sequence.request.adapter for sequence in sequences]


def _biased(logits: Tensor, sequences: Sequence[Running]) -> Tensor:
    """Return the logits with the bias of each request, and without stop tokens before its `min_tokens`."""
    changed = logits
    for row, sequence in enumerate(sequences):
        request = sequence.request
        banned = request.stop_ids if sequence.completion_tokens < request.min_tokens else ()
        if request.logit_bias or banned:
            changed = logits.clone() if changed is logits else changed
            values = torch.tensor(list(request.logit_bias.values()), dtype=logits.dtype, device=logits.device)
            if sequence.matcher:
                # A grammar may allow nothing but a banned token.
                values = values.clamp(min=_NEVER)
            changed[row, list(request.logit_bias)] += values
            changed[row, list(banned)] = -torch.inf
    return changed


def _requested_logprobs(logits: Tensor, sequences: Sequence[Running], chosen: Sequence[int]) -> list[Logprobs]:
    rows = [row for row, sequence in enumerate(sequences) if sequence.request.top_logprobs is not None]
    found: list[Logprobs] = [(None, ())] * len(sequences)
    if rows:
        counts = [sequences[row].request.top_logprobs or 0 for row in rows]
        own = log_probabilities(logits[rows], [chosen[row] for row in rows], counts)
        for row, one in zip(rows, own, strict=True):
            found[row] = one
    return found
