"""An engine that generates a given text, token by token, for tests of the page."""

import math
import threading
import time
from collections.abc import Callable

from tokenizers import Tokenizer

from homegrown.inference.engine import GeneratedToken, Request
from homegrown.inference.streaming import Chunk, Output
from homegrown.serving.service import Deliver
from homegrown.tokenizer.detokenizer import vocabulary_bytes

LIKELY = 0.6
"""The probability of each token."""

OTHERS = {" or": 0.25, "<i>": 0.15}
"""The other top tokens, everywhere that the vocabulary has them."""


SPEED = 50.0
"""Tokens per second that the engine reports."""


class ScriptedEngine:
    """Generates `text` for every request, but no more tokens than are `allowed` now."""

    def __init__(self, name: str, tokenizer: Tokenizer, text: str, *, context: int):
        self.name, self.rows, self.context, self.text = name, 4, context, text
        self.allowed = math.inf
        self.requests: list[Request] = []
        self.cancelled = 0
        self._tokenizer, self._table = tokenizer, vocabulary_bytes(tokenizer)
        known = {text.encode(): share for text, share in OTHERS.items() if text.encode() in self._table}
        self._others = tuple((self._table.index(data), math.log(share)) for data, share in known.items())

    def submit(self, request: Request, deliver: Deliver) -> Callable[[], None]:
        gone = threading.Event()
        self.requests.append(request)
        threading.Thread(target=self._generate, args=(request, deliver, gone), daemon=True).start()

        def cancel() -> None:
            self.cancelled += 1
            gone.set()

        return cancel

    def running(self) -> int:
        return 0

    def close(self) -> None:
        pass

    def _generate(self, request: Request, deliver: Deliver, gone: threading.Event) -> None:
        ids = self._tokenizer.encode(self.text, add_special_tokens=False).ids
        output = Output(self._table, request)
        for count, token_id in enumerate(ids, 1):
            while count > self.allowed and not gone.is_set():
                time.sleep(0.02)
            if gone.is_set():
                return
            top = ((token_id, math.log(LIKELY)), *self._others)
            last = "length" if count == request.max_tokens else None
            token = GeneratedToken(token_id, last, math.log(LIKELY), top)
            more, tokens, finish_reason = output.feed(token)
            if finish_reason is None and count == len(ids):
                rest, others = output.end()
                more, tokens, finish_reason = more + rest, (*tokens, *others), "stop"
            deliver(Chunk(more, tokens, count, finish_reason, count / SPEED))
            if finish_reason:
                return
