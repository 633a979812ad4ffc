"""Server throughput and latency under sequential and concurrent clients, with both engines.

    python -m benchmarks.serving [--models tiny 100m] [--clients 1 10 50] [--tokens 32] [--rounds 2]

Every model is `modern` with random weights. Each client streams one completion per round, one after the other, over
HTTP on loopback; all clients share one process outside the server's. The same clients measure llama.cpp's own server on
the same file. Then our engine serves the same number of tokens without and with a JSON schema, in turns, and two
prompts that share their first 1,000 tokens. The last line is one JSON object; its first figures are those of the last
model.
"""

import argparse
import asyncio
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import numpy as np
import psutil
import torch
import uvicorn

from benchmarks.inference import config_of, made_up_tokenizer
from benchmarks.measuring import table
from homegrown.export.gguf import write_gguf
from homegrown.model import weights
from homegrown.model.transformer import Transformer
from homegrown.serving.api import application
from homegrown.serving.llama_engine import LlamaEngine
from homegrown.serving.own_engine import OwnEngine
from homegrown.serving.service import Engine, Model, Service
from homegrown.tokenizer.chat import Chat, load_chat
from homegrown.tokenizer.loading import TOKENIZER_FILE
from homegrown.util.guard import listen

PROMPT = 32
CONTEXT = 256

SHARED = 1000
"""Tokens at the beginning of the prompts that share it."""

SCHEMA = {
    "type": "array",
    "minItems": 200,
    "items": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "kind": {"enum": ["a", "bc", "def"]}},
        "required": ["name", "age", "kind"],
    },
}
"""Of JSON that is longer than any completion here."""


@dataclass(frozen=True)
class Load:
    """Results of one number of clients: seconds to the first and the last token, total tokens per second."""

    clients: int
    firsts: list[float]
    totals: list[float]
    tokens_per_second: float
    tokens_per_cpu_second: float
    """CPU time of the server's process, which other load hardly changes."""
    grown_megabytes: float


_Result = TypeVar("_Result")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["tiny", "100m"], choices=["tiny", "100m"])
    parser.add_argument("--ratios", action="store_true", help="measure only the schema and the shared beginning")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 10, 50])
    parser.add_argument("--tokens", type=int, default=32, help="tokens per completion (default 32)")
    parser.add_argument("--rounds", type=int, default=2, help="completions per client (default 2)")
    parser.add_argument("--rows", type=int, default=16, help="batch size of our engine (default 16)")
    parser.add_argument("--turns", type=int, default=5, help="measurements of each ratio (default 5)")
    parser.add_argument("--gguf", nargs="*", default=["f32", "q8_0"], help="GGUF types for llama.cpp")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found: dict[str, dict[str, Any]] = {}
    for name in arguments.models:
        if not arguments.ratios:
            with TemporaryDirectory() as folder:
                found |= measure(name, Path(folder), arguments)
        with TemporaryDirectory() as folder:
            found[f"{name}, ratios"] = ratios(name, Path(folder), arguments)
    print(json.dumps(summary(arguments.models[-1], found) | found))


def summary(name: str, found: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return the ratios of one model, and with 50 clients our tokens per second, alone and by llama.cpp's server's."""
    short = {key: found[f"{name}, ratios"][key] for key in ("schema_speed_ratio", "prefix_first_token_ratio")}
    ours, theirs = (
        found.get(f"{name}, {engine}, f32", {}).get("50 clients") for engine in ("homegrown", "its own server")
    )
    if ours and theirs:
        short |= {"tokens_per_second_50": ours[0], "llama_cpp_ratio_50": round(ours[0] / theirs[0], 2)}
    return short


def ratios(name: str, folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Print and return the speed with a schema relative to that without, and the gain of a shared beginning."""
    alone(lambda: make(name, folder, SHARED + CONTEXT))
    engine, spawn = own(folder, arguments, context=SHARED + CONTEXT), get_context("spawn")
    with serving(engine, folder, arguments) as (url, chat), ProcessPoolExecutor(1, mp_context=spawn) as clients:
        found = clients.submit(_ratios, url, arguments, chat.tokenizer.get_vocab_size(), os.getpid()).result()
    table(f"{name}, ratios", tuple(found), [tuple(f"{value:.2f}" for value in found.values())])
    return found


def _ratios(url: str, arguments: argparse.Namespace, vocabulary: int, server: int) -> dict[str, float]:
    return asyncio.run(_every_ratio(url, arguments, vocabulary, psutil.Process(server)))


async def _every_ratio(
    url: str, arguments: argparse.Namespace, vocabulary: int, process: psutil.Process
) -> dict[str, float]:
    """Return the ratios of the times, and of the server's CPU time, which other load hardly changes."""
    draw = np.random.default_rng(0)
    speeds: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    prompts = draw.integers(7, vocabulary, (arguments.rows, PROMPT)).tolist()
    for turn in range(2 * (arguments.turns + 1)):
        extra = {"json_schema": SCHEMA} if turn % 2 else {}
        start, spent = time.perf_counter(), cpu_seconds(process)
        answers = await asyncio.gather(*[text(url, one, arguments.tokens, **extra) for one in prompts])
        tokens = sum(count for _, _, count in answers)
        speed = tokens / (time.perf_counter() - start), tokens / (cpu_seconds(process) - spent)
        if turn > 1:  # after a warm-up of each
            speeds[bool(extra)].append(speed)
    firsts: list[tuple[float, float]] = []
    for _ in range(arguments.turns):
        shared = draw.integers(7, vocabulary, SHARED).tolist()
        ends = draw.integers(7, vocabulary, (2, PROMPT)).tolist()
        times = []
        for end in ends:
            spent = cpu_seconds(process)
            first, _, _ = await text(url, [*shared, *end], 1)
            times.append((first, cpu_seconds(process) - spent))
        firsts.append((times[0][0] / times[1][0], times[0][1] / times[1][1]))
    schema, schema_cpu = np.median(speeds[True], axis=0) / np.median(speeds[False], axis=0)
    prefix, prefix_cpu = np.median(firsts, axis=0)
    return {
        "schema_speed_ratio": round(float(schema), 3),
        "schema_cpu_ratio": round(float(schema_cpu), 3),
        "prefix_first_token_ratio": round(float(prefix), 2),
        "prefix_cpu_ratio": round(float(prefix_cpu), 2),
    }


def make(name: str, folder: Path, context: int) -> None:
    """Write a model with random weights and a tokenizer."""
    config = replace(config_of(name), context=context)
    torch.manual_seed(0)
    model = Transformer(config)
    model.initialize()
    weights.save(model.eval(), folder)
    made_up_tokenizer(config.vocabulary_size).save(str(folder / TOKENIZER_FILE))


def measure(name: str, folder: Path, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Print a table of one model with every server and number of clients; return its figures."""
    config = config_of(name)
    alone(lambda: make(name, folder, config.context))
    loads = {"homegrown, f32": under(own(folder, arguments), folder, arguments)}
    for kind in arguments.gguf:
        file = folder / f"{kind}.gguf"
        alone(partial(write_gguf, folder, file, kind))
        loads[f"llama.cpp, {kind}"] = under(llama(file, folder, kind, arguments), folder, arguments)
        with llama_server(
            file, kind, arguments.rows, CONTEXT, connections=max(arguments.clients), threads=arguments.threads
        ) as url:
            loads[f"its own server, {kind}"] = from_outside(url, arguments, config.vocabulary_size)
    header = (
        *(f"{name}: {config.parameter_count() / 1e6:.1f} million parameters", "clients", "tokens/s", "a CPU second"),
        *("first token p50 ms", "p95", "last token p50 ms", "p95", "memory grew MB"),
    )
    rows = []
    for server, of_server in loads.items():
        for load in of_server:
            quantiles = [f"{np.quantile(times, q) * 1e3:,.0f}" for times in (load.firsts, load.totals) for q in Q]
            speeds = [f"{speed:,.0f}" for speed in (load.tokens_per_second, load.tokens_per_cpu_second)]
            rows.append((server, str(load.clients), *speeds, *quantiles, f"{load.grown_megabytes:.0f}"))
    table("", header, rows)
    return {
        f"{name}, {server}": {
            f"{load.clients} clients": [round(load.tokens_per_second, 1), round(load.tokens_per_cpu_second, 1)]
            for load in of_server
        }
        for server, of_server in loads.items()
    }


Q = (0.5, 0.95)


def own(folder: Path, arguments: argparse.Namespace, context: int = CONTEXT) -> Engine:
    def load() -> Engine:
        return OwnEngine(weights.load(folder), load_chat(folder), rows=arguments.rows, context=context, fail=print)

    return alone(load)


def alone(function: Callable[[], _Result]) -> _Result:
    """Return the result of a thread that then ends, as where a server loads: OpenMP keeps a pool of each living one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def llama(file: Path, folder: Path, kind: str, arguments: argparse.Namespace) -> Engine:
    return LlamaEngine(
        file,
        load_chat(folder),
        exact=kind == "f32",
        rows=arguments.rows,
        context=CONTEXT,
        threads=arguments.threads,
        fail=print,
    )


def under(engine: Engine, folder: Path, arguments: argparse.Namespace) -> list[Load]:
    """Serve a model with an engine of ours, and measure it."""
    with serving(engine, folder, arguments) as (url, chat):
        return from_outside(url, arguments, chat.tokenizer.get_vocab_size())


@contextmanager
def serving(engine: Engine, folder: Path, arguments: argparse.Namespace) -> Iterator[tuple[str, Chat]]:
    """Serve a model with an engine of ours on loopback; yield the address and the chat format."""
    service = Service([Model("model", 0)], queue=max(arguments.clients))
    chat = load_chat(folder)
    service.ready("model", engine, chat)
    listening = listen("127.0.0.1", 0)
    app = application(service, key=None, hosts=["127.0.0.1"])
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}", chat
    server.should_exit = True
    thread.join()
    service.close()


@contextmanager
def llama_server(file: Path, kind: str, rows: int, context: int, *, connections: int, threads: int) -> Iterator[str]:
    """Run llama.cpp's own server in this process on loopback; yield its address.

    With the kind f32 all computation is in float32: flash attention is off because it rounds to float16.
    """
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_parallel, params.n_ctx = rows, rows * context
    params.n_threads_http = connections + 2
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cache_ram_mib, params.verbosity = 0, -1
    if kind == "f32":
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(params)
    yield server.listening_address
    del server


def from_outside(url: str, arguments: argparse.Namespace, vocabulary: int) -> list[Load]:
    """Measure a server of this process from another process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as clients:
        return clients.submit(every_load, url, arguments, vocabulary, os.getpid()).result()


def every_load(url: str, arguments: argparse.Namespace, vocabulary: int, server: int) -> list[Load]:
    """Measure a server, whose process is given, with each number of clients, after one warm-up completion."""
    return asyncio.run(_every_load(url, arguments, vocabulary, psutil.Process(server)))


async def _every_load(url: str, arguments: argparse.Namespace, vocabulary: int, process: psutil.Process) -> list[Load]:
    draw, loads = np.random.default_rng(0), list[Load]()
    prompts = draw.integers(7, vocabulary, (max(arguments.clients) * arguments.rounds, PROMPT)).tolist()
    await text(url, prompts[0], 3)
    for clients in arguments.clients:
        before, spent, start = process.memory_info().rss, cpu_seconds(process), time.perf_counter()
        asked = [prompts[number :: max(arguments.clients)] for number in range(clients)]
        found = await asyncio.gather(*[one_client(url, mine, arguments.tokens) for mine in asked])
        seconds = time.perf_counter() - start
        times = [one for of_client in found for one in of_client]
        written = sum(count for _, _, count in times)
        loads.append(
            Load(
                clients,
                [first for first, _, _ in times],
                [total for _, total, _ in times],
                written / seconds,
                written / max(0.01, cpu_seconds(process) - spent),  # the clock ticks every 0.01 s
                (process.memory_info().rss - before) / 1e6,
            )
        )
    return loads


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time of all threads of a process so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


async def one_client(url: str, prompts: list[list[int]], tokens: int) -> list[tuple[float, float, int]]:
    return [await text(url, prompt, tokens) for prompt in prompts]


class Stream(asyncio.Protocol):
    """One request and its streamed answer, on a connection of its own.

    The clients share the processors with the server, and a library's would take five times as much of them.
    """

    def __init__(self, head: str, body: bytes):
        self._sent = f"{head}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
        self._received: list[bytes] = []
        self.first = 0.0
        """Time of the first token."""
        self.ended: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        cast(asyncio.Transport, transport).write(self._sent)

    def data_received(self, data: bytes) -> None:
        """Keep what comes, and the time of the first token."""
        if not self.first and b"data: {" in data:
            self.first = time.perf_counter()
        self._received.append(data)

    def connection_lost(self, error: Exception | None) -> None:
        """Return the answer."""
        self.ended.set_result(b"".join(self._received))


async def text(url: str, prompt: list[int], tokens: int, **extra: Any) -> tuple[float, float, int]:
    """Stream one completion; return the seconds to its first and last token, and its number of tokens."""
    body = {
        "model": "model",
        "prompt": prompt,
        "max_tokens": tokens,
        # The most likely token of random weights may always be a special one, which has no text.
        "temperature": 1,
        "seed": 1,
        "top_k": 0,
        "min_p": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **extra,
    }
    address = urlsplit(url)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json"
    sent = json.dumps(body).encode()
    start, loop = time.perf_counter(), asyncio.get_running_loop()
    where = cast(str, address.hostname), cast(int, address.port)
    _, stream = await loop.create_connection(lambda: Stream(head, sent), *where)
    answer = await stream.ended
    counted = re.search(rb'"completion_tokens": ?(\d+)', answer)
    if counted is None:
        raise RuntimeError(f"{url} sent no complete answer: {answer[-300:]!r}")
    return stream.first - start, time.perf_counter() - start, int(counted[1])


if __name__ == "__main__":
    main()
