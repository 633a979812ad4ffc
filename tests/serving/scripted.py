"""An engine that writes what it is told to, token by token, for tests of what stands before it."""

import threading
from collections.abc import Callable
from math import log

from tokenizers import Tokenizer

from homegrown.serving.completion import Delta, Token, Written
from homegrown.serving.service import Order
from homegrown.tokens.detokenizer import TextStream, vocabulary_bytes


_OTHERS = (40, 41, 60)
"""Tokens that are named as likely too."""


class ScriptedEngine:
    """Writes `text` to every order, one token each `pace` seconds; the n-th has probability `likely(n)`."""

    def __init__(self, name: str, tokenizer: Tokenizer, text: str, *, context: int, pace: float, likely: Callable[[int], float]):
        self.name, self.rows, self.context = name, 4, context
        self.orders: list[Order] = []
        self.cancelled = 0
        self._tokenizer, self._text, self._pace, self._likely = tokenizer, text, pace, likely
        self._table = vocabulary_bytes(tokenizer)

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
        ids = self._tokenizer.encode(self._text, add_special_tokens=False).ids
        text = TextStream(self._table, order.completion.stop)
        for count, number in enumerate(ids, 1):
            if gone.wait(self._pace):
                return
            more = text.feed(number)
            last = text.stopped or count in (order.room, len(ids))
            finish = None if not last else "length" if count == order.room else "stop"
            token = Token(number, self._table[number], log(self._likely(count)))
            others = tuple(Token(one, self._table[one], log(0.3 - 0.05 * place)) for place, one in enumerate(_OTHERS))
            order.deliver(Delta(more + (text.end() if last else ""), (Written(token, (token, *others)),), count, finish))
            if last:
                return
