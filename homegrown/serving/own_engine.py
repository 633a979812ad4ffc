"""Our engine in a thread of its own: orders join and leave between two of its steps."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from tokenizers import Tokenizer

from homegrown.inference import engine
from homegrown.model.transformer import Transformer
from homegrown.serving.completion import Delta, Token, Written
from homegrown.serving.service import Order
from homegrown.tokenizer.chat import stop_ids
from homegrown.tokenizer.detokenizer import TextStream, vocabulary_bytes
from homegrown.util.errors import UserError

_log = logging.getLogger(__name__)

_PIECE = 128
"""Padded tokens of prompts that one step reads at most, so that neither memory nor the others' wait grows with them."""

# Models take turns, step by step: side by side they would share the same processors, and one of numba's ways to run
# threads (workqueue) allows one caller at a time.
_TURN = threading.Lock()


@dataclass(eq=False)
class _Job:
    """An order, its text so far, and its row once it has one."""

    order: Order
    text: TextStream
    row: engine.Running | None = None
    cancelled: bool = False
    seconds: float = 0.0


class OwnEngine:
    """Writes the orders of one model; raises UserError if the model has no context of that length."""

    name = "homegrown"

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer, *, rows: int, context: int | None, fail: Callable[[str], None]
    ):
        """Allocate the cache and start the thread; `fail` is told, once, why no more can be written."""
        longest = model.config.context
        if context is not None and context > longest:
            raise UserError(f"--ctx-size is {context}, and the model's context is {longest}; give that or less.")
        self.rows, self.context = rows, context or longest
        self._engine = engine.Engine(model, rows=rows, capacity=self.context, piece=_PIECE)
        self._table, self._stop_ids, self._fail = vocabulary_bytes(tokenizer), stop_ids(tokenizer), fail
        self._waiting: deque[_Job] = deque()
        self._jobs: dict[engine.Running, _Job] = {}
        self._change, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def start(self, order: Order) -> Callable[[], None]:
        """Take an order; return what cancels it."""
        job = _Job(order, TextStream(self._table, order.completion.stop))

        def cancel() -> None:
            with self._change:
                job.cancelled = True
                self._change.notify()

        with self._change:
            self._waiting.append(job)
            self._change.notify()
        return cancel

    def running(self) -> int:
        """Return how many orders have a row now."""
        return len(self._jobs)

    def close(self) -> None:
        """Drop all orders and end the thread."""
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._await():
                self._leave()
                self._join()
                with _TURN:
                    began = time.perf_counter()
                    news = self._engine.step()
                    took = time.perf_counter() - began
                for one in news:
                    self._jobs[one.sequence].seconds += took
                    self._deliver(one)
        except Exception as error:
            # A GPU without memory, say. Whoever waits must hear of it, and so must who starts servers anew.
            _log.exception("The engine has failed.")
            self._fail(f"its engine has failed ({error}); start the server again.")
            for job in [*self._jobs.values(), *self._waiting]:
                job.order.deliver(RuntimeError(f"the engine has failed ({error})"))

    def _await(self) -> bool:
        """Wait until there is something to do; return whether there is."""
        with self._change:
            self._change.wait_for(lambda: self._closed or self._waiting or self._jobs)
            return not self._closed

    def _leave(self) -> None:
        for row, job in list(self._jobs.items()):
            if job.cancelled:
                self._engine.remove(row)
                del self._jobs[row]

    def _join(self) -> None:
        with self._change:
            while self._waiting and self._engine.free:
                job = self._waiting.popleft()
                if job.cancelled:
                    continue
                completion = job.order.completion
                job.row = self._engine.add(
                    engine.Request(
                        prompt=job.order.prompt,
                        max_new_tokens=job.order.room,
                        sampling=completion.sampling,
                        seed=job.order.seed,
                        stop_ids=self._stop_ids,
                        likeliest=completion.logprobs,
                    )
                )
                self._jobs[job.row] = job

    def _deliver(self, one: engine.Written) -> None:
        job = self._jobs[one.sequence]
        more = "" if one.finish == "stop" else job.text.feed(one.token)
        finish: engine.Finish | None = "stop" if job.text.stopped else one.finish
        if finish:
            more += job.text.end()
            self._engine.remove(one.sequence)
            del self._jobs[one.sequence]
        tokens = () if one.finish == "stop" else self._tokens(one)
        job.order.deliver(Delta(more, tokens, one.sequence.written, finish, job.seconds))

    def _tokens(self, one: engine.Written) -> tuple[Written, ...]:
        if one.probabilities is None:
            return ()
        likeliest = tuple(self._token(token, logprob) for token, logprob in one.probabilities.likeliest)
        return (Written(self._token(one.token, one.probabilities.chosen), likeliest),)

    def _token(self, number: int, logprob: float) -> Token:
        # A model's vocabulary may be padded beyond the tokenizer's.
        return Token(number, self._table[number] if number < len(self._table) else b"", logprob)
