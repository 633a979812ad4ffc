"""llama.cpp as an engine: the server inside `xllamacpp`'s wheel, in this process, on a GGUF file.

It is asked by a call, not over a network. The server that it cannot be without listens on a socket file in a folder
that only its user can enter.
"""

import importlib.util
import logging
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from homegrown.inference.engine import Finish
from homegrown.serving.completion import Completion, Delta, Refused, Token, Written
from homegrown.serving.service import Order
from homegrown.util.errors import UserError

_log = logging.getLogger(__name__)

_SEEDS = 2**32 - 1
"""llama.cpp's own are 32 bits, of which the last means a random one."""

_SAMPLERS = ["penalties", "temperature", "top_k", "top_p", "min_p", "typ_p"]
"""In our order (`homegrown.inference.sampling`), so that the same settings mean the same."""


def installed() -> bool:
    """Return whether xllamacpp is there."""
    return importlib.util.find_spec("xllamacpp") is not None


class LlamaEngine:
    """Writes the orders of one GGUF file; raises UserError if llama.cpp cannot load it."""

    name = "llama.cpp"

    def __init__(
        self,
        file: Path,
        *,
        exact: bool,
        rows: int,
        context: int,
        threads: int,
        fail: Callable[[str], None],
    ):
        """Load the file; `exact` has everything computed in float32, cache and attention too, for files of that type.

        `fail` is told, once, why no more can be written.
        """
        self.rows, self.context = rows, context
        self._folder = tempfile.TemporaryDirectory(prefix="homegrown-")
        self._fail, self._running, self._count, self._closed = fail, 0, threading.Lock(), False
        self._server = _server(file, exact, rows, context, threads, Path(self._folder.name) / "llama.sock")
        self._threads = ThreadPoolExecutor(rows, thread_name_prefix="llama.cpp")

    def start(self, order: Order) -> Callable[[], None]:
        """Take an order; return what cancels it."""
        cancelled = threading.Event()
        self._threads.submit(self._write, order, cancelled)
        return cancelled.set

    def running(self) -> int:
        """Return how many orders have a row now."""
        return self._running

    def close(self) -> None:
        """Drop all orders and free the memory."""
        self._closed = True
        self._threads.shutdown(cancel_futures=True)
        del self._server
        self._folder.cleanup()

    def _write(self, order: Order, cancelled: threading.Event) -> None:
        if cancelled.is_set() or self._closed:
            return
        with self._count:
            self._running += 1
        try:
            self._ask(order, cancelled)
        except Refused as error:
            order.deliver(error)
        except Exception as error:
            _log.exception("llama.cpp has failed.")
            self._fail(f"llama.cpp has failed ({error}); start the server again.")
            order.deliver(RuntimeError(f"llama.cpp has failed ({error})"))
        finally:
            with self._count:
                self._running -= 1

    def _ask(self, order: Order, cancelled: threading.Event) -> None:
        wrong: list[Exception] = []
        ended = threading.Event()

        def take(event: dict[str, Any]) -> bool:
            """Pass an event on; return whether that is enough."""
            try:
                if "error" in event:
                    raise _error(event["error"])
                delta = _delta(event, order.completion)
                order.deliver(delta)
                if delta.finish:
                    ended.set()
            except Exception as error:  # it must not reach C++
                wrong.append(error)
            return bool(wrong) or cancelled.is_set() or self._closed

        self._server.handle_completions(_body(order, self.context), take)
        if wrong:
            raise wrong[0]
        if not (ended.is_set() or cancelled.is_set() or self._closed):
            raise RuntimeError("it ended without a reason")


def _server(file: Path, exact: bool, rows: int, context: int, threads: int, socket: Path) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_parallel, params.n_ctx = rows, rows * context
    params.n_threads_http = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.hostnames = [str(socket)]
    params.ui = params.endpoint_slots = params.fit_params = False
    # A cache of old conversations beside that of the rows would grow to gigabytes.
    params.cache_ram_mib = 0
    params.verbosity = -1
    if exact:
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        raise UserError(
            f"llama.cpp cannot load {file} ({error}); choose a smaller --ctx-size or --parallel, or --engine homegrown."
        ) from error


def _body(order: Order, context: int) -> dict[str, Any]:
    completion, sampling = order.completion, order.completion.sampling
    return {
        "prompt": order.prompt,
        "max_tokens": order.room,
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
        "seed": order.seed % _SEEDS,
        "stop": list(completion.stop),
        # A prompt that is read in other pieces gives other last bits; where nobody can ask for the same again, what an
        # earlier turn of the conversation left is a gain.
        "cache_prompt": completion.seed is None and not sampling.greedy,
        "logprobs": None if completion.logprobs is None else max(1, completion.logprobs),
    }


def _error(said: dict[str, Any]) -> Exception:
    """Return what llama.cpp says of a request as an exception: one that it refuses is no failure of its own."""
    code, message = said.get("code", 500), said.get("message", "no reason given")
    return Refused(f"llama.cpp refuses this: {message}", "invalid") if code < 500 else RuntimeError(message)


def _delta(event: dict[str, Any], completion: Completion) -> Delta:
    (choice,) = event["choices"]
    reason = choice["finish_reason"]
    finish: Finish | None = None if reason is None else ("length" if reason == "length" else "stop")
    tokens = tuple(
        Written(_token(one), tuple(map(_token, one["top_logprobs"][: completion.logprobs])))
        for one in (choice["logprobs"] or {}).get("content", ())
    )
    timings = event["timings"]
    return Delta(choice["text"], tokens, timings["predicted_n"], finish, timings["predicted_ms"] / 1000)


def _token(one: dict[str, Any]) -> Token:
    return Token(one["id"], bytes(one["bytes"]), one["logprob"])
