"""Our engine in a thread of its own: requests join and leave between two of its steps."""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch

from homegrown.inference import engine
from homegrown.inference.engine import GeneratedToken, Request, Running
from homegrown.inference.streaming import Chunk, Output, grammar_failure
from homegrown.model.adapters import Adapters
from homegrown.model.transformer import Transformer
from homegrown.serving.refusal import Refused
from homegrown.serving.service import Deliver
from homegrown.tokenizer.chat import Chat
from homegrown.tokenizer.detokenizer import vocabulary_bytes
from homegrown.util.errors import UserError

_log = logging.getLogger(__name__)

_PREFILL_CHUNK, _CPU_CHUNK = 128, 64
"""Maximum prompt tokens per step, padding included: it bounds the memory, and the wait of the other requests.

It is what prompts share too: on a CPU, 128 were a tenth faster for a new prompt, and half as fast for a known one.
"""

_PREFIX_BYTES = 2**28
"""Maximum memory for the beginnings of prompts, which later prompts share."""

# Models take turns, step by step: side by side they would compete for the same processors, and one of numba's
# threading layers (workqueue) allows one caller at a time.
_TURN = threading.Lock()


_IDLE_SECONDS = 1.0
"""Time without requests after which an engine's thread ends.

OpenMP keeps a pool for each thread that has computed, and with more threads in pools than processors they sleep between
two operations: a step of `tiny` on 2 processors takes 1.6 ms instead of 0.2. A thread that ends leaves none.
"""


@dataclass(eq=False)
class _Job:
    """A request, its text so far, and its sequence once it has a row."""

    request: Request
    deliver: Deliver
    output: Output
    cancelled: bool = False
    seconds: float = 0.0


class OwnEngine:
    """Processes the requests of one model; raises UserError if its context is shorter than `context`."""

    name = "homegrown"

    def __init__(
        self,
        model: Transformer,
        chat: Chat,
        *,
        rows: int,
        context: int | None,
        fail: Callable[[str], None],
        adapters: Adapters | None = None,
    ):
        """Allocate the cache; `fail` is called once if the engine fails, with the reason.

        `adapters` are those on the model.
        """
        longest = model.config.context
        if context is not None and context > longest:
            raise UserError(f"--ctx-size is {context}, but the model's context is {longest}; reduce it.")
        self.rows, self.context = rows, context or longest
        self._engine = engine.Engine(
            model,
            rows=rows,
            capacity=self.context,
            prefill_chunk=_CPU_CHUNK if model.device.type == "cpu" else _PREFILL_CHUNK,
            prefix_bytes=_PREFIX_BYTES,
            adapters=adapters,
            interrupted=lambda: self._closed or any(job.cancelled for job in self._jobs.values()),
        )
        self._table, self._stop_ids, self._fail = vocabulary_bytes(chat.tokenizer), chat.stop_ids, fail
        self._waiting: deque[_Job] = deque()
        self._jobs: dict[Running, _Job] = {}
        self._change, self._closed, self._failure = threading.Condition(), False, ""
        self._thread: threading.Thread | None = None

    def submit(self, request: Request, deliver: Deliver) -> Callable[[], None]:
        """Take a request; return a function that cancels it; raises Refused after the engine has failed."""
        stopped = replace(request, stop_ids=request.stop_ids | self._stop_ids)
        job = _Job(stopped, deliver, Output(self._table, stopped))

        def cancel() -> None:
            with self._change:
                job.cancelled = True
                with contextlib.suppress(ValueError):  # it has a row
                    self._waiting.remove(job)
                self._change.notify()

        with self._change:
            if self._failure:
                raise Refused(f"The model has failed: {self._failure}", "failed")
            self._waiting.append(job)
            self._change.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
                self._thread.start()
        return cancel

    def running(self, adapter: str | None = None) -> int:
        """Return the number of requests of an adapter, or of the model itself, that have a row."""
        return sum(sequence.request.adapter == adapter for sequence in list(self._jobs))

    def embed(self, tokens: Sequence[int], adapter: str | None = None) -> list[float]:
        """Return the mean of the last hidden states of a text, of length 1."""

        def embed() -> list[float]:
            with _TURN, torch.inference_mode():
                mean = self._engine.embed(tokens, adapter).float().mean(0)
                vector: list[float] = (mean / mean.norm().clamp(min=1e-12)).tolist()
            return vector

        with ThreadPoolExecutor(1) as thread:  # of its own, which ends
            return thread.submit(embed).result()

    def close(self) -> None:
        """Drop all requests and end the thread."""
        with self._change:
            self._closed = True
            self._change.notify()
            thread = self._thread
        if thread:
            thread.join()

    def _run(self) -> None:
        try:
            while self._await():
                self._leave()
                self._join()
                with _TURN:
                    start = time.perf_counter()
                    generated = self._engine.step()
                    seconds = time.perf_counter() - start
                for sequence, token in generated.items():
                    self._jobs[sequence].seconds += seconds
                    self._deliver(sequence, token)
        except Exception as error:
            # For example a GPU without memory. Both the waiting clients and the health check must see it.
            _log.exception("The engine failed.")
            with self._change:
                self._failure = f"the engine failed ({error}); restart the server."
                jobs = [*self._jobs.values(), *self._waiting]
            self._fail(self._failure)
            for job in jobs:
                job.deliver(RuntimeError(f"the engine failed ({error})"))

    def _await(self) -> bool:
        """Wait for work; return whether there is any, or else the thread ends."""
        with self._change:
            found = self._change.wait_for(lambda: self._closed or self._waiting or self._jobs, _IDLE_SECONDS)
            if not found:
                self._thread = None
            return bool(found) and not self._closed

    def _leave(self) -> None:
        for sequence, job in list(self._jobs.items()):
            if job.cancelled:
                self._engine.remove(sequence)
                del self._jobs[sequence]

    def _join(self) -> None:
        with self._change:
            while self._waiting and self._engine.free:
                job = self._waiting.popleft()
                try:
                    self._jobs[self._engine.add(job.request)] = job
                except UserError as error:
                    job.deliver(Refused(str(error), "invalid"))

    def _deliver(self, sequence: Running, token: GeneratedToken) -> None:
        job = self._jobs[sequence]
        text, tokens, finish_reason = job.output.feed(token)
        if finish_reason:
            self._engine.remove(sequence)
            del self._jobs[sequence]
        if sequence.failure:
            job.deliver(Refused(grammar_failure(sequence.failure), "invalid"))
            return
        prompt, sequence.prompt_logprobs = tuple(sequence.prompt_logprobs), []
        job.deliver(Chunk(text, tokens, sequence.completion_tokens, finish_reason, job.seconds, prompt))


class AdaptedEngine:
    """An adapter of an engine as an engine of its own, whose requests take rows of the shared one."""

    def __init__(self, shared: OwnEngine, adapter: str, chat: Chat):
        """Serve `adapter`, one of those on the shared engine's model, with a chat format of its own."""
        self.name, self.rows, self.context = shared.name, shared.rows, shared.context
        self._shared, self._adapter, self._stop_ids = shared, adapter, chat.stop_ids

    def submit(self, request: Request, deliver: Deliver) -> Callable[[], None]:
        """Take a request; return a function that cancels it."""
        stopped = replace(request, adapter=self._adapter, stop_ids=request.stop_ids | self._stop_ids)
        return self._shared.submit(stopped, deliver)

    def running(self) -> int:
        """Return the number of its requests that have a row."""
        return self._shared.running(self._adapter)

    def embed(self, tokens: Sequence[int]) -> list[float]:
        """Return the mean of the last hidden states of a text, of length 1."""
        return self._shared.embed(tokens, self._adapter)

    def close(self) -> None:
        """Do nothing: the shared engine is closed for all."""
