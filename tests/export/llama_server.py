"""A real llama.cpp on loopback, with one file loaded: `xllamacpp`'s wheel holds its whole server."""

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

_WHOLE_CHARACTER = 20
"""A token of every tokenizer trained here: the first after the special ones are printable bytes, in order."""


class LlamaServer:
    """What the tests ask of llama.cpp."""

    def __init__(self, address: str):
        self._place = urlparse(address).netloc

    def tokenize(self, texts: Sequence[str], separator: int) -> list[list[int]]:
        """Return the ids of each text, special tokens in it being text; none of them may have the separator."""
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
        """Return the ids of a whole prompt, with what llama.cpp puts before it."""
        ids: list[int] = self._post("/tokenize", content=text, add_special=True, parse_special=parse_special)["tokens"]
        return ids

    def complete(self, prompt: Sequence[int], tokens: int, **options: Any) -> dict[str, Any]:
        """Return llama.cpp's answer to a greedy request for `tokens` new ones."""
        return self._post(
            "/completion", prompt=list(prompt), n_predict=tokens, temperature=0, return_tokens=True, **options
        )

    def log_probabilities(self, prompt: Sequence[int], vocabulary: int) -> list[float]:
        """Return those of every token as the next one."""
        # Made to write a token that is a whole character, without which there is no answer; what is asked for comes
        # from before any such wish.
        answer = self.complete(prompt, 1, n_probs=vocabulary, logit_bias=[[_WHOLE_CHARACTER, 1000.0]])
        found = [-math.inf] * vocabulary
        for token in answer["completion_probabilities"][0]["top_logprobs"]:
            found[token["id"]] = token["logprob"]
        return found

    def chat_text(self, messages: Sequence[Message]) -> str:
        """Return the prompt that llama.cpp's Jinja makes of the template in the file."""
        text: str = self._post("/apply-template", messages=_plain(messages))["prompt"]
        return text

    def chat_tokens(self, messages: Sequence[Message]) -> int:
        """Return how many tokens llama.cpp reads when it is sent a chat."""
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
    """Run llama.cpp on a file, in this process, with one thread, and all in float32.

    Its flash attention, on by default, rounds to float16 even so.
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
    yield LlamaServer(server.listening_address)
    del server


def _plain(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]
