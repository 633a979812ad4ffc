"""An engine that writes what it is told to, token by token, for tests of what stands before it."""

import math
import threading
import time
from collections.abc import Callable

from tokenizers import Tokenizer

from homegrown.serving.completion import Delta, Token, Written
from homegrown.serving.service import Order
from homegrown.tokenizer.detokenizer import TextStream, vocabulary_bytes

LIKELY = 0.6
"""The probability of each token."""

OTHERS = {" or": 0.25, "<i>": 0.15}
"""What else is likely everywhere."""


SPEED = 50.0
"""Tokens a second that it says it writes."""


class ScriptedEngine:
    """Writes `text` to every order, but no more tokens than are `allowed` now."""

    def __init__(self, name: str, tokenizer: Tokenizer, text: str, *, context: int):
        self.name, self.rows, self.context, self.text = name, 4, context, text
        self.allowed = math.inf
        self.orders: list[Order] = []
        self.cancelled = 0
        self._tokenizer, self._table = tokenizer, vocabulary_bytes(tokenizer)

    def start(self, order: Order) -> Callable[[], None]:
        gone = threading.Event()
        self.orders.append(order)
        threading.Thread(target=self._write, args=(order, gone), daemon=True).start()

        def cancel() -> None:
            self.cancelled += 1
            gone.set()

        return cancel

    def running(self) -> int:
        return 0

    def close(self) -> None:
        pass

    def _write(self, order: Order, gone: threading.Event) -> None:
        numbers = self._tokenizer.encode(self.text, add_special_tokens=False).ids
        text = TextStream(self._table, order.completion.stop)
        others = tuple(Token(-1, other.encode(), math.log(share)) for other, share in OTHERS.items())
        for count, number in enumerate(numbers, 1):
            while count > self.allowed and not gone.is_set():
                time.sleep(0.02)
            if gone.is_set():
                return
            more = text.feed(number)
            finish = "length" if count == order.room else "stop" if text.stopped or count == len(numbers) else None
            token = Token(number, self._table[number], math.log(LIKELY))
            more += text.end() if finish else ""
            order.deliver(Delta(more, (Written(token, (token, *others)),), count, finish, count / SPEED))
            if finish:
                return
