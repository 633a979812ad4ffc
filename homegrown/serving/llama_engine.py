"""llama.cpp as an engine: the server inside the `xllamacpp` wheel, in this process, on a GGUF file.

Requests are function calls, without a network. The server cannot do without an address, so it listens on a socket file
in a folder that only its user can enter.
"""

import importlib.util
import logging
import math
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from homegrown.inference.engine import FinishReason, GeneratedToken, Request
from homegrown.inference.grammar import Check
from homegrown.inference.streaming import Chunk, Output, TextToken
from homegrown.serving.refusal import Refused
from homegrown.serving.service import Deliver
from homegrown.tokenizer.chat import Chat
from homegrown.tokenizer.detokenizer import vocabulary_bytes
from homegrown.util.errors import UserError

_log = logging.getLogger(__name__)

_RANDOM_SEED = 2**32 - 1
"""llama.cpp's seeds have 32 bits; the last one means a random seed."""

_SAMPLERS = ["penalties", "temperature", "top_k", "top_p", "min_p", "typ_p"]
"""In the order of `homegrown.inference.sampling`, so that equal parameters have equal effects."""

_GRAMMAR_PREFIX = "%llguidance {}\n"
"""How llama.cpp tells the grammars of llguidance from its own."""


_TOP, _ALL = 64, 2**20
"""How many tokens of a distribution are read where a token is searched: first the top ones, then all."""

_MOST_DIVISIONS = 16
"""Of the bytes of hidden tokens, that are compared."""

_CERTAIN = 1e6
"""The bias of a token that is generated in any case."""


def installed() -> bool:
    """Return whether xllamacpp is installed."""
    return importlib.util.find_spec("xllamacpp") is not None


class LlamaEngine:
    """Processes the requests of one GGUF file; raises UserError if llama.cpp cannot load it."""

    name = "llama.cpp"

    def __init__(
        self,
        file: Path,
        chat: Chat,
        *,
        exact: bool,
        rows: int,
        context: int,
        threads: int,
        fail: Callable[[str], None],
    ):
        """Load the file; with `exact`, cache and attention are in float32 too, for files of that type.

        `fail` is called once if the engine fails, with the reason.
        """
        self.rows, self.context = rows, context
        self._table, self._stop_ids = vocabulary_bytes(chat.tokenizer), chat.stop_ids
        self._folder = tempfile.TemporaryDirectory(prefix="homegrown-")
        self._fail, self._running, self._count, self._closed = fail, 0, threading.Lock(), False
        self._ids: dict[bytes, int] = {data: token for token, data in enumerate(self._table) if data}
        # One more than the requests: for the distributions that llama.cpp does not report.
        self._server = _server(file, exact, rows + 1, context, threads, Path(self._folder.name) / "llama.sock")
        self._threads = ThreadPoolExecutor(rows, thread_name_prefix="llama.cpp")

    def submit(self, request: Request, deliver: Deliver) -> Callable[[], None]:
        """Take a request; return a function that cancels it.

        Raises Refused if llama.cpp cannot do what it asks for.
        """
        needs = {
            "min_tokens": request.min_tokens,
            "stop_token_ids": request.stop_ids,
            "echo with logprobs": request.prompt_logprobs,
            # It compares bytes, and those of an incomplete character are others.
            "stop with U+FFFD": request.top_logprobs is None and any("\ufffd" in stop for stop in request.stop),
        }
        if unsupported := [name for name, value in needs.items() if value]:
            message = f"llama.cpp does not support {unsupported[0]}; serve with --engine homegrown."
            raise Refused(message, "invalid", unsupported[0].partition(" ")[0])
        cancelled = threading.Event()
        self._threads.submit(self._process, request, deliver, cancelled)
        return cancelled.set

    def running(self) -> int:
        """Return the number of requests that have a row."""
        return self._running

    def embed(self, tokens: Sequence[int]) -> list[float]:
        """Refuse: llama.cpp pools only where nothing is generated."""
        raise Refused("llama.cpp does not support embeddings here; serve with --engine homegrown.", "invalid", "model")

    def close(self) -> None:
        """Drop all requests and free the memory."""
        self._closed = True
        self._threads.shutdown(cancel_futures=True)
        del self._server
        self._folder.cleanup()

    def _process(self, request: Request, deliver: Deliver, cancelled: threading.Event) -> None:
        if cancelled.is_set() or self._closed:
            return
        with self._count:
            self._running += 1
        try:
            self._complete(request, deliver, cancelled)
        except Refused as error:
            deliver(error)
        except Exception as error:
            _log.exception("llama.cpp failed.")
            self._fail(f"llama.cpp failed ({error}); restart the server.")
            deliver(RuntimeError(f"llama.cpp failed ({error})"))
        finally:
            with self._count:
                self._running -= 1

    def _complete(self, request: Request, deliver: Deliver, cancelled: threading.Event) -> None:
        if request.max_tokens == 0:
            deliver(Chunk("", (), 0, "length", 0.0))
            return
        errors: list[Exception] = []
        finished = threading.Event()
        scored = None if request.top_logprobs is None else _Scored(request, Output(self._table, request))
        check = None if request.grammar is None else request.grammar.check()

        def take(event: dict[str, Any]) -> bool:
            """Deliver an event; return whether llama.cpp should stop."""
            try:
                if "error" in event:
                    raise _error(event["error"])
                chunk = _chunk(event) if scored is None else self._scored(event, scored)
                if check is not None:
                    _hold(check, chunk, request)
                deliver(chunk)
                if chunk.finish_reason:
                    finished.set()
            except Exception as error:  # it must not reach C++
                errors.append(error)
            return bool(errors) or finished.is_set() or cancelled.is_set() or self._closed

        self._server.handle_completions(_body(request, self.context), take)
        if errors:
            raise errors[0]
        if not (finished.is_set() or cancelled.is_set() or self._closed):
            raise RuntimeError("no finish reason")

    def _scored(self, event: dict[str, Any], scored: "_Scored") -> Chunk:
        """Return an event of a request with log-probabilities, whose text consists of the bytes of its tokens.

        llama.cpp has an event per complete character. Its `bytes` include those of the tokens before, of which it gives
        nothing else but their number.
        """
        plain = _chunk(event)
        hidden = plain.completion_tokens - scored.count - 1
        scored.count = plain.completion_tokens
        text, tokens, finish_reason = "", list[TextToken](), plain.finish_reason
        for one in (event["choices"][0]["logprobs"] or {}).get("content", ()):
            if one["id"] in self._stop_ids:
                continue
            own, data = self._table[one["id"]], bytes(one["bytes"])
            missing = data[: len(data) - len(own)]
            generated = self._hidden(scored, missing, hidden) if missing else []
            unknown = b"" if generated else missing
            for token in [*generated, _generated(one, scored.top)]:
                more, placed, stopped = scored.output.feed(token, unknown)
                unknown = b""
                scored.ids.append(token.id)
                text, tokens = text + more, [*tokens, *placed]
                if stopped:
                    return replace(plain, text=text, tokens=tuple(tokens), finish_reason=stopped)
        if finish_reason:
            more, placed = scored.output.end()
            text, tokens = text + more, [*tokens, *placed]
        return replace(plain, text=text, tokens=tuple(tokens))

    def _hidden(self, scored: "_Scored", data: bytes, count: int) -> list[GeneratedToken]:
        """Return the tokens of incomplete characters by their bytes: the most likely division into `count` tokens."""
        before, known = [*scored.request.prompt_ids, *scored.ids], dict[tuple[int, ...], _Distribution]()

        def distribution(ids: tuple[int, ...]) -> _Distribution:
            """Return that of the token after some of the hidden ones."""
            if ids not in known:
                known[ids] = self._next([*before, *ids], max(scored.top, _TOP))
            return known[ids]

        def logprob(ids: tuple[int, ...]) -> float:
            """Return the log-probability of the last of some hidden tokens."""
            *earlier, token = ids
            context = tuple(earlier)
            if token not in distribution(context).logprobs:
                known[context] = self._next([*before, *context], _ALL)
            return known[context].logprobs.get(token, -math.inf)

        # Special tokens among them have no bytes, and no place that could be known.
        divided = (list(islice(self._divisions(data, one), _MOST_DIVISIONS)) for one in range(count, 0, -1))
        divisions = next(filter(None, divided), [])
        found, likelihood = tuple[int, ...](), -math.inf
        # The most that each can have, by its first token, is known from the top tokens: few need all of a vocabulary.
        for ids in sorted(divisions, key=lambda ids: -distribution(()).most(ids[0])):
            if found and distribution(()).most(ids[0]) <= likelihood:
                break
            own = sum(logprob(ids[:end]) for end in range(1, len(ids) + 1))
            if not found or own > likelihood:
                found, likelihood = ids, own
        return [known[found[:place]].generated(token, scored.top) for place, token in enumerate(found)]

    def _divisions(self, data: bytes, count: int) -> Iterator[tuple[int, ...]]:
        """Yield the divisions of bytes into a number of tokens."""
        if count == 1 and data in self._ids:
            yield (self._ids[data],)
        for end in range(1, len(data) if count > 1 else 0):
            if (first := self._ids.get(data[:end])) is not None:
                yield from ((first, *rest) for rest in self._divisions(data[end:], count - 1))

    def _next(self, before: Sequence[int], most: int) -> "_Distribution":
        """Return the most likely tokens after others."""
        body: dict[str, Any] = {"prompt": list(before), "max_tokens": 1, "stream": True, "cache_prompt": True}
        # Generates a token that is complete, with the model's own distribution.
        body |= {"temperature": 0.0, "logit_bias": [[self._ids[b" "], _CERTAIN]]}
        events = list[dict[str, Any]]()
        self._server.handle_completions({**body, "logprobs": most}, events.append)
        if "error" in events[0]:
            raise _error(events[0]["error"])
        (one,) = events[0]["choices"][0]["logprobs"]["content"]
        return _Distribution({other["id"]: other["logprob"] for other in one["top_logprobs"]})


@dataclass
class _Distribution:
    """The log-probabilities of the most likely tokens, in their order."""

    logprobs: dict[int, float]

    def most(self, token: int) -> float:
        """Return the log-probability of a token, or the most that it can be if it is not among these."""
        return self.logprobs.get(token, min(self.logprobs.values()))

    def generated(self, token: int, top: int) -> GeneratedToken:
        """Return a token with its log-probability and those of the top tokens."""
        return GeneratedToken(token, None, self.logprobs.get(token), tuple(islice(self.logprobs.items(), top)))


@dataclass
class _Scored:
    """The output of a request with log-probabilities."""

    request: Request
    output: Output
    ids: list[int] = field(default_factory=list)
    count: int = 0
    """Tokens generated so far, including those without output."""

    @property
    def top(self) -> int:
        return self.request.top_logprobs or 0


def _generated(reported: dict[str, Any], top: int) -> GeneratedToken:
    """Return a token from llama.cpp's report of the distribution."""
    found = [(other["id"], other["logprob"]) for other in reported["top_logprobs"][:top]]
    return GeneratedToken(reported["id"], None, reported["logprob"], tuple(found))


def _server(file: Path, exact: bool, rows: int, context: int, threads: int, socket: Path) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_parallel, params.n_ctx = rows, rows * context
    params.n_threads_http = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.hostnames = [str(socket)]
    params.ui = params.endpoint_slots = params.fit_params = False
    # A cache of old conversations, in addition to that of the rows, would grow to gigabytes.
    params.cache_ram_mib = 0
    params.verbosity = -1
    if exact:
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        raise UserError(
            f"llama.cpp cannot load {file} ({error}); reduce --ctx-size or --parallel, or use --engine homegrown."
        ) from error


def _body(request: Request, context: int) -> dict[str, Any]:
    sampling = request.sampling
    return {
        "prompt": list(request.prompt_ids),
        "max_tokens": request.max_tokens,
        "stream": True,
        "timings_per_token": True,
        "temperature": 0.0 if sampling.greedy else sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "typical_p": sampling.typical_p,
        "repeat_penalty": sampling.repetition_penalty,
        "repeat_last_n": context,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "samplers": _SAMPLERS,
        "seed": _RANDOM_SEED if request.seed is None else request.seed % _RANDOM_SEED,
        # Tokens that a stop string cuts must be known; with log-probabilities, they are searched here.
        "stop": list(request.stop) if request.top_logprobs is None else [],
        "logit_bias": [[token, bias if math.isfinite(bias) else False] for token, bias in request.logit_bias.items()],
        # A prompt prefilled in other chunks gives other last bits; where no request can be repeated exactly, the
        # cache of an earlier turn of the conversation is a gain.
        "cache_prompt": request.seed is None and not sampling.greedy,
        # Its library is the one that has compiled the grammar here.
        "grammar": "" if request.grammar is None else _GRAMMAR_PREFIX + request.grammar.text,
        "logprobs": None if request.top_logprobs is None else max(1, request.top_logprobs),
    }


def _hold(check: Check, chunk: Chunk, request: Request) -> None:
    """Raise Refused if an output has left its grammar: where the library in llama.cpp gives up, it says nothing."""
    # max_tokens can end it inside a character.
    fits = check.fits(chunk.text.rstrip("\ufffd") if chunk.finish_reason == "length" else chunk.text)
    if not fits or (chunk.finish_reason == "stop" and not (request.stop or check.complete)):
        message = "llama.cpp did not enforce the grammar of the output; simplify it, or serve with --engine homegrown."
        raise Refused(message, "invalid")


def _error(error: dict[str, Any]) -> Exception:
    """Return llama.cpp's error as an exception: a refused request is not a failure of the engine."""
    code, message = error.get("code", 500), error.get("message", "no reason given")
    return Refused(f"llama.cpp refuses the request: {message}", "invalid") if code < 500 else RuntimeError(message)


def _chunk(event: dict[str, Any]) -> Chunk:
    (choice,) = event["choices"]
    reason = choice["finish_reason"]
    finish_reason: FinishReason | None = None if reason is None else ("length" if reason == "length" else "stop")
    timings = event["timings"]
    return Chunk(choice["text"], (), timings["predicted_n"], finish_reason, timings["predicted_ms"] / 1000)
