"""llama.cpp's server on loopback with one GGUF file; `xllamacpp` includes it."""

import http.client
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import xllamacpp

from homegrown.tokenizer.chat import Message

_PRINTABLE = 20
"""A printable byte in every tokenizer of these tests: such bytes follow the special tokens, in order."""


class LlamaServer:
    """A client for llama.cpp's HTTP API."""

    def __init__(self, address: str):
        self._place = urlparse(address).netloc

    def tokenize(self, texts: Sequence[str], separator: int) -> list[list[int]]:
        """Return the ids of each text without parsing special tokens; no text may contain the separator's id."""
        mixed = [part for text in texts for part in (text, separator)]
        ids = self._post("/tokenize", content=mixed, add_special=False, parse_special=False)["tokens"]
        rows: list[list[int]] = [[]]
        for token in ids:
            if token == separator:
                rows.append([])
            else:
                rows[-1].append(token)
        return rows[:-1]

    def prompt(self, text: str, *, parse_special: bool) -> list[int]:
        """Return the ids of a prompt, including the start token that llama.cpp adds."""
        ids: list[int] = self._post("/tokenize", content=text, add_special=True, parse_special=parse_special)["tokens"]
        return ids

    def complete(self, prompt: Sequence[int], tokens: int, **options: Any) -> dict[str, Any]:
        """Return the response to a greedy request for `tokens` new tokens."""
        return self._post(
            "/completion", prompt=list(prompt), n_predict=tokens, temperature=0, return_tokens=True, **options
        )

    def log_probabilities(self, prompt: Sequence[int], vocabulary: int) -> list[float]:
        """Return the log-probability of every token as the next one."""
        # Without a complete character there is no response, so a bias forces one; probabilities are from before it.
        answer = self.complete(prompt, 1, n_probs=vocabulary, logit_bias=[[_PRINTABLE, 1000.0]])
        found = [-math.inf] * vocabulary
        for token in answer["completion_probabilities"][0]["top_logprobs"]:
            found[token["id"]] = token["logprob"]
        return found

    def chat_text(self, messages: Sequence[Message]) -> str:
        """Return the prompt that llama.cpp's Jinja renders from the template in the file."""
        text: str = self._post("/apply-template", messages=_plain(messages))["prompt"]
        return text

    def chat_tokens(self, messages: Sequence[Message]) -> int:
        """Return the number of prompt tokens of a chat."""
        answer = self._post("/v1/chat/completions", messages=_plain(messages), max_tokens=1, temperature=0)
        return int(answer["usage"]["prompt_tokens"])

    def _post(self, path: str, **body: Any) -> dict[str, Any]:
        connection = http.client.HTTPConnection(self._place)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
        connection.close()
        assert response.status == 200, answer
        return answer


@contextmanager
def serving(file: Path, context: int = 128) -> Iterator[LlamaServer]:
    """Run llama.cpp on a file in this process, with one thread and all computation in float32.

    Flash attention is off because it rounds to float16.
    """
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx = params.n_batch = params.n_ubatch = context
    params.n_parallel = params.n_threads_http = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.warmup = False
    params.verbosity = -1
    server = xllamacpp.Server(params)
    try:
        yield LlamaServer(server.listening_address)
    finally:
        del server


def _plain(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]
