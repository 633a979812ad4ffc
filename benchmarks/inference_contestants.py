"""The contestants of `benchmarks.inference`: our engine, `transformers`, the guide's loop, llama.cpp."""

import http.client
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch

from homegrown.inference.engine import Engine, Request
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer


@dataclass(frozen=True)
class Timing:
    """Seconds until every sequence has its first token, and tokens per second of all sequences after it."""

    first_seconds: float
    tokens_per_second: float


Writer = Callable[[Sequence[list[int]], int], Timing]
"""Decodes a number of tokens greedily after each of several prompts of equal length."""


def _timing(start: float, steps: Sequence[float], batch: int) -> Timing:
    return Timing(steps[0] - start, batch * (len(steps) - 1) / (steps[-1] - steps[0]))


def ours(model: Transformer) -> Writer:
    """Return our engine."""

    def write(prompts: Sequence[list[int]], count: int) -> Timing:
        engine = Engine(model, rows=len(prompts), capacity=len(prompts[0]) + count)
        start, steps = time.perf_counter(), []
        for prompt in prompts:
            engine.add(Request(prompt_ids=prompt, max_tokens=count))
        while engine.step():
            steps.append(time.perf_counter())
        return _timing(start, steps, len(prompts))

    return write


def guide(model: Transformer) -> Writer:
    """Return the guide's loop, which computes all tokens again for each new one."""

    def write(prompts: Sequence[list[int]], count: int) -> Timing:
        tokens, start, steps = torch.tensor(prompts), time.perf_counter(), []
        with torch.no_grad():
            for _ in range(count):
                following = model(tokens)[:, -1].argmax(-1, keepdim=True)
                tokens = torch.cat([tokens, following], dim=1)
                steps.append(time.perf_counter())
        return _timing(start, steps, len(prompts))

    return write


def transformers(config: ModelConfig, model: Transformer) -> Writer:
    """Return `generate` of transformers, with its cache, on the same weights in the same type."""
    from transformers import Qwen3Config, Qwen3ForCausalLM, StoppingCriteria, StoppingCriteriaList

    theirs = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=config.vocabulary_size,
            hidden_size=config.hidden,
            intermediate_size=config.feed_forward,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.head_size,
            max_position_embeddings=config.context,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=config.tied,
            attention_bias=False,
        )
    ).to(model.model.embed_tokens.weight.dtype)
    theirs.load_state_dict(model.state_dict(), strict=not config.tied)
    theirs.eval()

    class Clock(StoppingCriteria):  # type: ignore[misc]
        """Records the time of each token."""

        def __init__(self) -> None:
            self.steps: list[float] = []

        def __call__(self, ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            self.steps.append(time.perf_counter())
            return torch.zeros(len(ids), dtype=torch.bool)

    def write(prompts: Sequence[list[int]], count: int) -> Timing:
        tokens, clock, start = torch.tensor(prompts), Clock(), time.perf_counter()
        theirs.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([clock]),
        )
        return _timing(start, clock.steps, len(prompts))

    return write


def llama_cpp(file: Path, context: int, rows: int, threads: int) -> Writer:
    """Return llama.cpp's own server in this process on a GGUF file; it reports its own times.

    It is started for each turn: its threads, even idle, make those of the other contestants sleep between two
    operations, because OpenMP counts the threads of all.
    """
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx, params.n_parallel, params.n_threads_http = context * rows, rows, rows
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.verbosity = -1

    def ask(place: str, prompt: list[int], count: int) -> dict[str, float]:
        connection = http.client.HTTPConnection(place)
        body = {"prompt": prompt, "n_predict": count, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
        timings: dict[str, float] = json.loads(connection.getresponse().read())["timings"]
        connection.close()
        return timings

    def write(prompts: Sequence[list[int]], count: int) -> Timing:
        server = xllamacpp.Server(params)
        place = urlparse(server.listening_address).netloc
        with ThreadPoolExecutor(len(prompts)) as pool:
            list(pool.map(lambda prompt: ask(place, prompt, 2), prompts))  # warm
            every = list(pool.map(lambda prompt: ask(place, prompt, count), prompts))
        del server
        first = max(one["prompt_ms"] for one in every) / 1e3
        # Its time for the prompt includes the first token.
        return Timing(first, len(prompts) * (count - 1) / max(one["predicted_ms"] for one in every) * 1e3)

    return write
